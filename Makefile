# `make` runs the main job, `make test` passes the tests, `make docs` builds the documentation, `make dist` the package.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST_ARGS ?= -n auto --dist loadfile

.PHONY: main test docs dist install clean

main: install
	$(BIN)/pp-mlem compare galaxies --set K=3 --starts 20 --seed 0

test: install
	$(BIN)/python -m pytest $(PYTEST_ARGS)

docs: $(VENV)/installed-docs
	rm -rf docs/_build
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html

dist: $(VENV)/installed-dev
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[models,test]"
	touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) runs dist docs/_build
