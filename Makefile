# make repro, make test: everything else follows. VENV=... puts the environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
# Paths may have spaces, which end a name for make; the make of macOS itself finds nothing by an exported PATH.
SPACE := $() $()
INSTALLED := $(subst $(SPACE),\ ,$(VENV))/.installed
export VENV
export BIN := $(if $(filter /%,$(firstword $(VENV))),,$(CURDIR)/)$(VENV)/bin
export PATH := $(BIN):$(PATH)

.PHONY: repro test test-slow check lock screenshots

repro: $(INSTALLED)
	@test ! -e dvc.lock || test -s dvc.lock || \
		{ echo 'dvc.lock: empty, as DVC leaves it where it is killed; run git checkout dvc.lock' >&2; exit 1; }
	"$$BIN/landmarks" check
	"$$BIN/dvc" repro
	@echo
	@"$$BIN/landmarks" summary
	@echo "Before these: source \"$$VENV/bin/activate\""

test: $(INSTALLED)
	"$$BIN/pytest"

test-slow: $(INSTALLED)
	"$$BIN/pytest" -m slow

check: $(INSTALLED)
	"$$BIN/ruff" check
	"$$BIN/ruff" format --check
	"$$BIN/lint-imports" --no-cache
	"$$BIN/mypy"
	"$$BIN/mypy" --platform darwin --cache-dir .mypy_cache/darwin
	"$$BIN/mypy" --platform win32 --cache-dir .mypy_cache/win32
	git ls-files -z | xargs -0 "$$BIN/codespell"

# Of the page, for the README: needs Chromium and a finished `make repro`.
screenshots: $(INSTALLED)
	"$$BIN/python" docs/screenshots.py

# The newest versions that pyproject.toml allows; torch and torchvision are a pair that is known to work.
lock: $(INSTALLED)
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' | uv pip compile --quiet --universal --upgrade --extra dev \
		--no-emit-index-url --custom-compile-command 'make lock' --constraint - pyproject.toml -o requirements.txt

$(INSTALLED): requirements.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed; name one with make PYTHON=...' >&2; exit 1; }
	"$(PYTHON)" -m venv "$$VENV"
	"$$BIN/pip" install --requirement requirements.txt
	"$$BIN/pip" install --no-deps --no-build-isolation --editable .
	touch "$$VENV/.installed"
