# make demo        trains a small detector on generated images, evaluates and draws
# make test        lint and tests; make test-fast the quick ones alone
# Each makes .venv and installs into it first. ACCEL=cpu|cuda|tpu overrides what is
# found; CONSTRAINTS= installs the newest versions instead of those in constraints.txt.

comma := ,
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ACCEL ?= $(shell if nvidia-smi -L >/dev/null 2>&1; then echo cuda; \
	elif [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ]; then echo tpu; else echo cpu; fi)
EXTRAS := test$(if $(filter-out cpu,$(ACCEL)),$(comma)$(ACCEL))
CONSTRAINTS ?= -c constraints.txt
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS)
INSTALLED := $(VENV)/installed-$(ACCEL)
DEMO := work_dirs/demo
MMDET_ENV := mmdet_env

.PHONY: demo test test-fast test-slow test-torch test-mmdet test-browser test-wheel \
	test-hf test-trackers test-onnx test-tpu test-video test-site site lint install \
	mmdet-env clean

install: $(INSTALLED)

$(INSTALLED): requirements.txt constraints.txt pyproject.toml
	@case "$(ACCEL)" in cpu|cuda|tpu) ;; *) \
		echo "ACCEL=$(ACCEL): expected cpu, cuda or tpu"; exit 1;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.txt
	$(INSTALL) -e '.[$(EXTRAS)]'
	touch $@

demo: install
	$(BIN)/python train.py --config=configs/atss_shapes.py --workdir=$(DEMO)
	$(BIN)/python eval.py --workdir=$(DEMO)
	$(BIN)/python -m atss_jax draw detections --workdir $(DEMO) --out $(DEMO)/detections.png
	@echo
	@echo "weights:          $(DEMO)/checkpoints"
	@echo "COCO numbers:     $(DEMO)/evaluation"
	@echo "log:              $(DEMO)/metrics.jsonl, tensorboard --logdir $(DEMO)/tensorboard"
	@echo "image to look at: $(DEMO)/detections.png"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder \
	--max-worker-restart=0

# Without a limit of restarts, xdist waits for ever once a worker has crashed.
test: lint
	$(PYTEST) --durations=15

# For the inner loop of a developer: what compiles no detector and starts no program.
test-fast: install
	$(PYTEST) -m 'not (long or slow or torch or mmdet or browser or wheel or hf or trackers or site or onnx or tpu or video)'

# Minutes to an hour: see docs/development.md.
test-slow: install
	$(BIN)/python -m pytest -q -m slow

test-torch: install
	$(INSTALL) torch==2.13.0 pillow==13.0.0 supervision==0.31.2
	$(BIN)/pip download --quiet --no-deps --dest .cache/deepforest deepforest==2.1.0
	$(BIN)/python -m zipfile -e .cache/deepforest/deepforest-2.1.0-*.whl .cache/deepforest
	$(BIN)/python -m pytest -q -m torch

# The documentation as a website: .cache/site/index.html
site: install
	$(INSTALL) mkdocs-material==9.8.2
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file website/mkdocs.yml

test-site: site
	$(BIN)/python -m pytest -q -m site

# Nothing of mmdetection is installed or run: its config files are read.
test-mmdet: install
	$(BIN)/pip download --quiet --no-deps --dest .cache/mmdet mmdet==3.3.0
	$(BIN)/python -m zipfile -e .cache/mmdet/mmdet-3.3.0-*.whl .cache/mmdet
	$(BIN)/python -m pytest -q -m mmdet

# The library `datasets` writes data sets and loads them from a server on this machine.
test-hf: install
	$(INSTALL) -e '.[hf]'
	$(BIN)/python -m pytest -q -m hf

# The trackers' libraries, without their servers.
test-trackers: install
	$(INSTALL) -e '.[wandb,mlflow,trackio]'
	$(BIN)/python -m pytest -q -m trackers

# ONNX files: written, compared with JAX, run by onnxruntime and by OpenVINO.
test-onnx: install
	$(INSTALL) -e '.[onnx]' openvino==2026.4.1
	$(BIN)/python -m pytest -q -m 'onnx and not slow'

# Compiles for TPUs on the CPU: libtpu holds the compiler, and needs no TPU.
test-tpu: install
	$(INSTALL) -e '.[tpu]'
	$(PYTEST) -m tpu

# Identities in videos, by the ByteTrack of supervision.
test-video: install
	$(INSTALL) -e '.[video]' supervision==0.30.9
	$(BIN)/python -m pytest -q -m video

# The wheel in a new environment, used in an empty folder.
test-wheel: install
	$(BIN)/python -m pytest -q -m wheel

# Needs Chromium (Debian: apt-get install chromium), and says so without.
test-browser: install
	@command -v chromium || command -v chromium-browser || command -v google-chrome || { \
		echo "no chromium found: apt-get install chromium"; exit 1; }
	$(INSTALL) -e '.[onnx]'
	$(BIN)/python -m pytest -q -m browser

# mmdetection in an environment of its own, to compare with: see docs/performance.md.
# mmcv has no wheel for this PyTorch: its operators are compiled here.
mmdet-env:
	$(PYTHON) -m venv $(MMDET_ENV)
	$(MMDET_ENV)/bin/pip install --quiet -r benchmarks/peers/requirements.txt
	$(MMDET_ENV)/bin/pip install --quiet --no-deps mmengine==0.10.7 mmdet==3.3.0
	MMCV_WITH_OPS=1 FORCE_CUDA=0 $(MMDET_ENV)/bin/pip install --quiet --no-deps \
		--no-build-isolation mmcv==2.1.0

clean:
	rm -rf $(VENV) .cache
