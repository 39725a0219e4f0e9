# Every target goes through config/bootstrap.py, which makes .venv and installs what is
# missing. make run: the whole of Tiebreak · make test, test-all, lint · make bench ·
# make simulate ARGS="--project demo --prefer lists --judgments 60 --rounds 2" · make clean
# make messages: the Chinese catalog anew from the code (needs GNU gettext)
# make pictures: docs/pictures, every page from an example of its own (ARGS="--only home")
PYTHON ?= python3
ARGS ?=

.PHONY: run test test-all lint bench simulate messages pictures clean

run test test-all lint bench simulate messages pictures clean:
	@$(PYTHON) config/bootstrap.py $@ $(ARGS)
