PYTHON ?= python3.11
UV ?= uv
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help env serve monitor train-env yolov8-env napari-env test test-fast images test-images lint lint-kubernetes train-all wheels bench peers-env lock proto wheel release-api settings

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'

env: .venv/.made .venv-triton/.made ## make the serving environment (.venv) and Triton's (.venv-triton)

serve: env ## start Triton and the gateway on model_repository/, until Ctrl-C
	@.venv/bin/nuclei serve

monitor: .venv/.made ## watch the running service: Prometheus, alerts and the page /monitor, until Ctrl-C
	@.venv/bin/nuclei monitor

train-env: .venv-train/.made ## make the environment for training, tests and development (.venv-train)

# Two workers; each module's tests run on one of them, so that they share their fixtures.
PYTEST = .venv-train/bin/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder
test: train-env .venv-triton/.made ## run the whole test suite (PYTEST_ARGS=... adds options)
	@$(PYTEST) -m "not container" $(PYTEST_ARGS)

test-fast: train-env ## run the tests that need no Triton and train no network (some minutes)
	@$(PYTEST) -m "not slow and not train and not triton and not container" $(PYTEST_ARGS)

# nuclei-training alone takes more space and time than the others together: IMAGES= builds it, too.
IMAGES ?= nuclei-serving nuclei-triton
images: ## build the container images IMAGES with podman or docker (minutes)
	@k8s/images/build.sh $(IMAGES)

test-images: train-env ## play a pod of the images, read-only and without rights (needs podman, runc and root)
	@CONTAINERS_CONF=$(CURDIR)/k8s/images/containers.conf \
		.venv-train/bin/python -m pytest -n 0 -m container tests/k8s/test_containers.py

yolov8-env: .venv-train/.yolov8 ## add ultralytics (AGPL-3.0) to .venv-train, for `nuclei train yolov8`

napari-env: .venv-napari/.made ## make an environment with napari and Qt for the tests of the plugin (.venv-napari)

lint: train-env lint-kubernetes ## check style, types, imports, the API and what is deployed
	@.venv-train/bin/ruff check .
	@.venv-train/bin/ruff format --check .
	@.venv-train/bin/mypy
	@.venv-train/bin/lint-imports --no-cache
	@.venv-train/bin/buf lint
	@.venv-train/bin/buf breaking --against $(RELEASED_API)

# What kustomize makes of each overlay, against the schemas of two versions of Kubernetes and public
# policies. Those of CRDs are in tests/k8s/test_schemas.py.
OVERLAYS = $(dir $(wildcard k8s/access/kustomization.yaml k8s/overlays/*/kustomization.yaml tests/k8s/overlays/*/kustomization.yaml))
lint-kubernetes: train-env .venv-checkov/.made
	@rm -rf build/k8s && mkdir -p build/k8s
	@for overlay in $(OVERLAYS); do \
		.venv-train/bin/kubectl kustomize $$overlay > build/k8s/$$(basename $$overlay).yaml || exit 1; done
	@.venv-train/bin/python -m kubernetes_validate --strict --quiet --no-warn \
		-k 1.36 -k 1.37 build/k8s/*.yaml
	@.venv-train/bin/yamllint --strict k8s tests/k8s compose.yaml
	@.venv-train/bin/hadolint k8s/images/*/Dockerfile
	@.venv-checkov/bin/checkov

# ONLY="unet linknet" trains some; MINUTES=6.5 trains side by side on a GPU for that long, and no more.
train-all: train-env ## train every model on DATA="a.zip folder/ ...", large ones where there is a GPU
	@test -n "$(DATA)" || { echo "Which images? make train-all DATA=stage1_train.zip (.venv-train/bin/nuclei data download . fetches them)" >&2; exit 2; }
	@.venv-train/bin/nuclei train all $(DATA) $(ONLY:%=--only %) $(MINUTES:%=--minutes %)

WITHOUT_TORCH = awk '/^[^ ]/ { keep = !/^(torch|torchvision|triton)==/ && !/^(cuda|nvidia)-[^m]/ } keep'
wheels: train-env ## download what training needs besides torch into wheels/, for a machine without internet
	@$(WITHOUT_TORCH) requirements/training.lock > .venv-train/without-torch.txt
	@.venv-train/bin/python -m pip download --quiet --disable-pip-version-check --no-deps \
		--require-hashes -d wheels -r .venv-train/without-torch.txt

# Each in an environment of its own, since they ask for different versions of the same packages.
PEERS = stardist litserve mlserver perf
peers-env: .venv-peers/.made ## make the environments of benchmarks/peers.py (.venv-peers, 3 GB)
.venv-peers/.made: $(PEERS:%=benchmarks/peers/%.txt)
	@mkdir -p .venv-peers
	@for name in $(PEERS); do $(PYTHON) -m venv .venv-peers/$$name && \
		.venv-peers/$$name/bin/python $(PIP_INSTALL) -r benchmarks/peers/$$name.txt || exit 1; done
	@touch $@

bench: env ## measure speed on this machine, into benchmarks/RESULTS.md (ten minutes)
	@.venv/bin/python benchmarks/bench.py

# Exact versions with the hashes of every file: what was tested is what is installed.
COMPILE = $(UV) pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_35 \
	--generate-hashes --no-header --no-emit-index-url --no-emit-find-links
lock: ## pin the dependencies of pyproject.toml; delete a lock first for newer versions (needs uv)
	$(COMPILE) --extra serve --extra plates pyproject.toml -o requirements/serving.lock
	$(COMPILE) --extra cluster --extra train --extra dev -c requirements/serving.lock \
		pyproject.toml -o requirements/training.lock
	$(COMPILE) --extra train --extra registry -c requirements/training.lock \
		pyproject.toml -o requirements/training-image.lock
	$(COMPILE) --no-deps requirements/yolov8.in -o requirements/yolov8.lock
	$(COMPILE) --no-deps requirements/triton.in -o requirements/triton.lock
	$(COMPILE) --extra napari-nuclei \
		pyproject.toml requirements/napari.in -o requirements/napari.lock
	$(COMPILE) requirements/checkov.in -o requirements/checkov.lock

wheel: env ## build the wheel for clients in dist/
	@rm -rf build dist/nuclei_serving-*.whl
	@.venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .
	@ls dist/nuclei_serving-*.whl

proto: train-env ## generate nuclei/v1's Python stubs from its proto
	@PATH="$(CURDIR)/.venv-train/bin:$$PATH" python -m grpc_tools.protoc -I . --python_out=. \
		--grpc_python_out=. --mypy_out=quiet:. --mypy_grpc_out=quiet:. nuclei/v1/segmentation.proto

RELEASED_API = nuclei/v1/released.binpb
release-api: train-env ## record the proto as released; `make lint` compares later changes with it
	@.venv-train/bin/buf build --exclude-source-info -o $(RELEASED_API)

settings: train-env ## write docs/settings.md from the settings classes
	@.venv-train/bin/python -m serving.settings_page

# What a service imports, and its kernels, are compiled here once, not at each of its starts: a service
# may not be allowed to write beside the packages, or be told not to (PYTHONDONTWRITEBYTECODE).
COMPILE_IMPORTED = PYTHONDONTWRITEBYTECODE=
SERVING = import nuclei.cli.serve, serving.decoding.decoder, serving.gateway.service, serving.promotion.__main__, serving.promotion.administration, serving.supervision.__main__

.venv/.made: requirements/serving.lock pyproject.toml
	@$(call make_environment,.venv)
	@echo "Installing the serving environment into .venv (a minute or two)"
	@.venv/bin/python $(PIP_INSTALL) --no-deps --no-compile --require-hashes -r $<
	@.venv/bin/python $(PIP_INSTALL) --no-deps -e .
	@$(COMPILE_IMPORTED) .venv/bin/python -c "$(SERVING)"
	@touch $@

.venv-triton/.made: requirements/triton.lock
	@$(call make_environment,.venv-triton)
	@$(PYTHON) -m serving.triton.machine
	@echo "Installing Triton Inference Server into .venv-triton (a minute or two)"
	@.venv-triton/bin/python $(PIP_INSTALL) --no-deps --no-compile --require-hashes -r $<
	@$(COMPILE_IMPORTED) .venv-triton/bin/python -c "import onnxruntime"
	@touch $@

.venv-train/.made: requirements/training.lock pyproject.toml
	@$(call make_environment,.venv-train)
	@echo "Installing the training and test environment into .venv-train (several minutes, 7 GB)"
	@.venv-train/bin/python $(PIP_INSTALL) --no-deps --no-compile --require-hashes -r $<
	@.venv-train/bin/python $(PIP_INSTALL) --no-deps -e .
	@$(COMPILE_IMPORTED) .venv-train/bin/python -c "$(SERVING)"
	@touch $@

.venv-train/.yolov8: requirements/yolov8.lock .venv-train/.made
	@echo "Installing ultralytics into .venv-train"
	@.venv-train/bin/python $(PIP_INSTALL) --no-deps --no-compile --require-hashes -r $<
	@touch $@

.venv-napari/.made: requirements/napari.lock pyproject.toml
	@$(call make_environment,.venv-napari)
	@echo "Installing napari into .venv-napari"
	@.venv-napari/bin/python $(PIP_INSTALL) --no-deps --no-compile --require-hashes -r $<
	@.venv-napari/bin/python $(PIP_INSTALL) --no-deps -e .
	@touch $@

.venv-checkov/.made: requirements/checkov.lock
	@$(call make_environment,.venv-checkov)
	@echo "Installing checkov into .venv-checkov"
	@.venv-checkov/bin/python $(PIP_INSTALL) --no-deps --no-compile --require-hashes -r $<
	@touch $@

define make_environment
$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null \
	|| { echo "Python 3.11 was not found as '$(PYTHON)': install it (apt install python3.11) or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	|| { echo "Python's venv module is missing: apt install python3.11-venv" >&2; exit 1; }; \
test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef
