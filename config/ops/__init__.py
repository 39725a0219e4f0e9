"""Installing, starting and supervising Tiebreak on one machine.

Standard library only (stack.py also uses supervisor, prepare.py Django): most of it
runs before anything is installed. config/bootstrap.py imports it as `ops`, because
importing `config` would load Celery.
"""
