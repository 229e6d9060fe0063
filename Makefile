# make repro, make test: everything else follows. VENV=... puts the environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
INSTALLED = $(VENV)/.installed
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: repro test test-slow check lock screenshots

repro: $(INSTALLED)
	landmarks check
	dvc repro
	@echo
	@landmarks summary
	@echo "Before these: source '$(VENV)/bin/activate'"

test: $(INSTALLED)
	pytest

test-slow: $(INSTALLED)
	pytest -m slow

check: $(INSTALLED)
	ruff check
	ruff format --check
	mypy
	mypy --platform darwin --cache-dir .mypy_cache/darwin
	mypy --platform win32 --cache-dir .mypy_cache/win32

# Of the page, for the README: needs Chromium and a finished `make repro`.
screenshots: $(INSTALLED)
	python docs/screenshots.py

# The newest versions that pyproject.toml allows; torch and torchvision are a pair that is known to work.
lock: $(INSTALLED)
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' | uv pip compile --quiet --universal --upgrade --extra dev \
		--no-emit-index-url --custom-compile-command 'make lock' --constraint - pyproject.toml -o requirements.txt

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed; name one with make PYTHON=...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	pip install --requirement requirements.txt
	pip install --no-deps --no-build-isolation --editable .
	touch $@
