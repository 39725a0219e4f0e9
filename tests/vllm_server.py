"""A real vLLM for tests, run by `manage.py run_vllm` on a tiny random model.

Started once per session (half a minute), shared by every test that asks for `vllm`.
Tests see it through the database, as the application does, so they need
`transactional_db`: between tests the rows are gone and run_vllm writes them anew.
`make_adapter` makes what a round would: a PEFT folder and its canary.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from django.conf import settings
from django.db import connection

from tests.processes import free_port
from tests.waiting import wait_for

CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A random Llama of 2 layers x 64 and a byte-level tokenizer of some 280 tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<pad>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["tea and rivers and hello there"] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_adapter(run_folder: Path, base: Path, seed: int = 1, rank: int = 8) -> Path:
    """RUN/adapter and RUN/canary.json, as a round that moved the weights leaves them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.dpo.batches import Layout
    from training.dpo.canary import canary_token_ids, policy_canary, sequence_logprobs
    from training.dpo.forward import Engine

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=["q_proj", "v_proj", "down_proj"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(run_folder / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = canary_token_ids(tokenizer, len(tokenizer))
    engine = Engine(model, Layout(max_tokens=1, max_pairs=1, pad_id=0))
    with model.disable_adapter():
        before = sequence_logprobs(engine, ids)
    canary = policy_canary(engine, ids, before)
    (run_folder / "canary.json").write_text(json.dumps(canary))
    return run_folder / "adapter"


class VLLMServer:
    """`manage.py run_vllm` as a process of its own, on the tests' database."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = settings.DATA_DIR / "run_vllm.log"
        self.temporary = Path(tempfile.mkdtemp(prefix="tiebreak-tests-"))
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start it if it does not run; does not wait."""
        if self.process is not None and self.process.poll() is None:
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run_vllm"],
                cwd=settings.BASE_DIR,
                env={**os.environ, **self._environment()},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, seconds: float = 180) -> None:
        from inference.queries import readiness

        def ready():
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            return all(ok for _part, ok, _detail in readiness())

        try:
            wait_for("vLLM to be ready", ready, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.log.read_text()[-2000:]}") from None

    def family(self) -> list[psutil.Process]:
        """run_vllm and every process below it."""
        try:
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def engine(self) -> list[psutil.Process]:
        """vLLM's processes: the API server first, EngineCore and the worker below it."""
        helpers = ("resource_tracker", "rendering_check")
        return [
            process
            for process in self.family()[1:]
            if not any(helper in command_of(process) for helper in helpers)
        ]

    def wait_for_engine(self) -> list[psutil.Process]:
        """Until all three processes of a starting vLLM are there."""
        wait_for("vLLM's three processes", lambda: len(self.engine()) >= 3, 120)
        return self.family()

    def sockets(self) -> list[Path]:
        """The files of vLLM's sockets that are there."""
        return [path for path in self.temporary.rglob("*") if path.is_socket()]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def _environment(self) -> dict[str, str]:
        database = connection.settings_dict
        if connection.vendor == "sqlite":
            url = f"sqlite:///{database['NAME']}"
        else:
            url = "postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{NAME}".format(
                **database
            )
        return {
            "DATABASE_URL": url,
            "MODEL": str(self.model),
            "VLLM_PORT": str(self.port),
            "VLLM_KV_CACHE_GIB": "1",
            "TMPDIR": str(self.temporary),
        }


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those still running; a zombie waits for a parent that does not look."""

    def runs(process):
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if runs(process)]


@pytest.fixture(scope="session")
def tiny_model():
    return make_tiny_model(settings.DATA_DIR / "models" / "tiny")


@pytest.fixture(scope="session")
def vllm_session(django_db_setup, tiny_model):
    server = VLLMServer(tiny_model)
    before = settings.MODEL, settings.VLLM_PORT
    settings.MODEL, settings.VLLM_PORT = str(tiny_model), server.port
    yield server
    family = server.family()
    server.stop()
    settings.MODEL, settings.VLLM_PORT = before
    wait_for("nothing to be left after SIGTERM", lambda: not alive(family), 10)
    shutil.rmtree(server.temporary)


@pytest.fixture
def vllm(vllm_session, transactional_db, django_db_blocker):
    """The server, ready."""
    vllm_session.start()
    vllm_session.wait_until_ready()
    return vllm_session
