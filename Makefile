# A fresh machine needs only `make run` or `make test`. Every line below can be run by hand.
PYTHON ?= python3
VENV   ?= .venv
CORES  ?= all
# TORCH=cpu installs torch without its CUDA libraries (5.6 GB less), from torch's own index of CPU builds.
TORCH  ?= default
# INSTALLER=pip installs with pip alone.
INSTALLER ?= uv
# The extras of pyproject.toml in requirements.lock.
EXTRAS := workflow glyphs qpth dev
SLOW   ?= slow
# Python of the machine that a bundle is for, and the folder to write.
PYTHON_VERSION ?= 3.12
BUNDLE ?= bundle
BIN    := $(VENV)/bin
READY  := $(VENV)/ready-$(TORCH)

export PATH := $(abspath $(BIN)):$(PATH)
# Bytecode is kept: where images of containers switch it off, every command would compile torch and snakemake again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: doctor run test test-slow test-clusters cloud tensorboard docs check format bench bench-gpu bundle lock

run: $(READY)
	snakemake --cores $(CORES)

# What this machine lacks, and what to do; before anything is installed.
doctor:
	$(PYTHON) -I src/fewshot/doctor.py . $(VENV)

test: $(READY)
	pytest tests -m "not slow" -n auto --dist loadfile --no-loadscope-reorder

# Whole workflows, kills at random moments, every command: 20 minutes; `SLOW="slow and not long"` takes 10.
test-slow: $(READY)
	pytest tests -m "$(SLOW)" -n auto --dist worksteal

# Learning curves of trainings with `train.tensorboard: true`, at http://localhost:6006
tensorboard: $(READY)
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements-tensorboard.lock
	tensorboard --logdir logs/tensorboard

# The documentation as a site, in site/; a link that leads nowhere is an error.
docs: $(READY)
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements-docs.lock
	python -m sphinx -q -W --keep-going -c docs/site . site
	@echo "open site/index.html"

# Additional packages for S3 remotes and Snakemake's Kubernetes executor.
cloud: $(READY)
	$(BIN)/python -m pip install -q --no-deps --require-hashes -r requirements-cloud.lock

# S3, simulated Kubernetes (as root), and Slurm if tests/cluster/one_node_slurm.sh starts this.
test-clusters: cloud
	pytest tests/end_to_end/test_s3.py tests/end_to_end/test_kubernetes.py tests/end_to_end/test_slurm.py -n auto --dist loadfile

check: $(READY)
	ruff format --check src tests benchmarks
	snakefmt --check Snakefile workflow/rules
	ruff check src tests benchmarks
	mypy
	lint-imports
	fewshot schema --check
	fewshot evidence --check

bench: $(READY)
	python -m benchmarks

# Checks and timings on a GPU, six minutes; on a machine with only torch: PYTHONPATH=src python -m benchmarks.gpu
bench-gpu: $(READY)
	python -m benchmarks.gpu

# Experiments for a machine without network: `make bundle SUITE=cxgrad`; see docs/gpus.md.
bundle: $(READY)
	fewshot bundle $(if $(SUITE),--suite $(SUITE)) --python-version $(PYTHON_VERSION) --out $(BUNDLE)

format: $(READY)
	ruff format src tests benchmarks
	ruff check --fix src tests benchmarks
	snakefmt Snakefile workflow/rules
	fewshot schema --write
	fewshot evidence

# The environment: exact versions and hashes, no resolution (qpth declares an old numpy but runs with the locked one).
$(READY): requirements.lock pyproject.toml
	@echo "Installing the environment into $(VENV): about 6.5 GB (1 GB with TORCH=cpu), half a minute plus the download."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	workflow/install.sh $(VENV) $(TORCH) $(INSTALLER)
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $(READY)

# Regenerates the lock files from pyproject.toml and requirements-*.in; needs the network.
COMPILE := uv pip compile --generate-hashes --universal --python-version 3.11 --no-header --no-annotate
lock: $(READY)
	printf 'numpy>=2.4\n' > $(VENV)/overrides.txt
	$(COMPILE) pyproject.toml $(EXTRAS:%=--extra %) --override $(VENV)/overrides.txt -o requirements.lock
	$(COMPILE) requirements-cloud.in -c requirements.lock -o requirements-cloud.lock
	$(COMPILE) requirements-docs.in -c requirements.lock -o requirements-docs.lock
	$(COMPILE) requirements-tensorboard.in -c requirements.lock -o requirements-tensorboard.lock
