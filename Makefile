# Each target sets up .venv first, when it is missing or out of date. Needs Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN = $(PYTHON) scripts/bootstrap.py
DATA ?= data/compositions.json
STORE ?= store
MODELS ?= --model markov --model gru4rec --model dagset

.PHONY: help demo test test-slow test-playground lint serve bench bench-service data clean

help:           ## list the targets
	@grep -E '^[a-z-]+: *##|^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/'

demo:           ## train on DATA, show the results, answer a prediction over HTTP (DEMO_ONCE=1 stops then)
	@$(RUN) python scripts/demo.py $(DATA)

test: lint      ## style, types and the default tests
	@$(RUN) python -m pytest

test-slow:      ## the longer checks
	@$(RUN) python -m pytest -m slow

test-playground: ## the page in headless Chromium (Debian: apt install chromium chromium-driver)
	@TEST_CHROMIUM=1 $(RUN) python -m pytest tests/playground

lint:           ## style and types
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

serve:          ## train MODELS on DATA where STORE is empty, then serve
	@$(RUN)
	@test -e $(STORE)/current || $(RUN) dagrec train $(DATA) --store $(STORE) $(MODELS)
	@$(RUN) dagrec serve --store $(STORE)

bench:          ## time training and scoring of MODELS on DATA
	@$(RUN) dagrec bench $(DATA) $(MODELS)

bench-service:  ## requests a second of the service, beside a bare FastAPI endpoint
	@$(RUN) python scripts/bench_service.py

data:           ## draw the bundled compositions again; gives the same file
	@$(RUN) dagrec generate --out data/compositions.json

clean:          ## remove what was made, the environment included
	rm -rf .venv build store out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
