"""Installing, starting and supervising Tiebreak on one machine.

Standard library only (stack.py also uses supervisor), nothing of Django: these
modules run before anything is installed. config/bootstrap.py imports them as `ops`,
because importing `config` would load Celery.
"""
