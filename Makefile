# Each target first sets up .venv if it is missing or out of date. Requires Python 3.11 and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN = $(PYTHON) scripts/bootstrap.py
DATA ?= data/compositions.json
STORE ?= store
MODELS ?= --model markov --model gru4rec --model dagset

# Without files of compiled code, each process of the tests compiles all modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow test-playground lint serve bench bench-service data clean

help:           ## list the targets
	@grep -E '^[a-z-]+: *##|^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/'

demo:           ## evaluate, train and serve on DATA, and send one request (then stop with DEMO_ONCE=1)
	@$(RUN) python scripts/demo.py $(DATA)

test: lint      ## check style and types, and run the default tests
	@$(RUN) python -m pytest -n 2

test-slow:      ## run the slow tests
	@$(RUN) python -m pytest -m slow

test-playground: ## test the page in headless Chromium (Debian: apt install chromium chromium-driver)
	@TEST_CHROMIUM=1 $(RUN) python -m pytest tests/playground

lint:           ## check style and types
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

serve:          ## train MODELS on DATA if STORE is empty, then serve
	@$(RUN)
	@test -e $(STORE)/current || $(RUN) dagrec train $(DATA) --store $(STORE) $(MODELS)
	@$(RUN) dagrec serve --store $(STORE)

bench:          ## measure the time of training and scoring MODELS on DATA
	@$(RUN) dagrec bench $(DATA) $(MODELS)

bench-service:  ## measure the service's requests per second against a bare FastAPI endpoint
	@$(RUN) python scripts/bench_service.py

data:           ## generate the bundled compositions; the file stays identical
	@$(RUN) dagrec generate --out data/compositions.json

clean:          ## remove all generated files, including the environment
	rm -rf .venv build store out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
