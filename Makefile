# Two commands: `make demo` runs the whole chain, `make test` checks everything. Both stand on `make install`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint format clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dedup,demo,dev,metrics]'
	touch $@

demo: install
	$(BIN)/vitok demo

test: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile --durations 40

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .demo .peers build *.egg-info
