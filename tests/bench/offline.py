"""vLLM's own offline rate: `python -m tests.bench.offline ASKED.json OUT.json`.

ASKED: {"flags": […of the server…], "adapter": {"name", "path"} or null, "turns":
[{"requests": [{"messages", "seed", "sampling"}]}]}. OUT: [{"seconds", "token_ids":
[[first, second], …]}], one for each turn. All requests of a turn are given to one `LLM` at
once, two answers each, with their log-probs and seeds, after a few to warm up. Run it with
the server's own environment; with MENDED in it, vLLM has our LoRA operators.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from inference import vllm_mending

WARM_UP = 8
MENDED = "BENCH_VLLM_MENDED"

if MENDED in os.environ:
    # Here, since each of vLLM's processes imports this module, not its end.
    vllm_mending.install()


def main(asked: dict[str, Any]) -> list[dict[str, Any]]:
    from vllm import LLM, SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    # What only the HTTP server knows (--host, --port …) is left out.
    flags, _of_the_server = parser.parse_known_args(asked["flags"])
    llm = LLM(**vars(EngineArgs.from_cli_args(flags)))
    adapter = asked["adapter"]
    lora = LoRARequest(adapter["name"], 1, adapter["path"]) if adapter else None

    def generate(requests: list[dict[str, Any]]) -> list[list[list[int]]]:
        answers = llm.chat(
            [request["messages"] for request in requests],
            [
                SamplingParams(
                    n=2, logprobs=0, seed=request["seed"], **request["sampling"]
                )
                for request in requests
            ],
            lora_request=lora,
            use_tqdm=False,
        )
        return [[list(one.token_ids) for one in each.outputs] for each in answers]

    generate(asked["turns"][0]["requests"][:WARM_UP])
    told = []
    for turn in asked["turns"]:
        begun = time.perf_counter()
        token_ids = generate(turn["requests"])
        told.append({"seconds": time.perf_counter() - begun, "token_ids": token_ids})
    return told


if __name__ == "__main__":
    told = main(json.loads(Path(sys.argv[1]).read_text("utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(told), encoding="utf-8")
