# The two commands of the README: `make` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PYTEST_ARGS ?= -n auto --dist loadfile

.PHONY: main test install clean

main: install
	$(BIN)/pp-mlem compare galaxies --set K=3 --starts 20 --seed 0

test: install
	$(BIN)/python -m pytest $(PYTEST_ARGS)

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[models,test]"
	touch $@

clean:
	rm -rf $(VENV) runs
