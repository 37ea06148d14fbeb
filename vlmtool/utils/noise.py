"""Libraries that talk while they load: their notes are not the user's concern."""

import logging
import os
import sys
import warnings

SET_THEIR_OWN_LEVEL = (  # when they are imported
    "DeepSpeed",
    "torch.distributed.elastic.agent.server.api",
    "torch.distributed.elastic.multiprocessing.api",
)


def silence_libraries() -> None:
    """Leave only errors of transformers, bitsandbytes, deepspeed and torch's launcher; `VLMTOOL_DEBUG=1` leaves all.

    To be called before those libraries are imported.
    """
    if os.environ.get("VLMTOOL_DEBUG", "") not in ("", "0"):
        return
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():  # bars fill a log
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    for name in SET_THEIR_OWN_LEVEL:
        logging.getLogger(name).disabled = True
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|peft|transformers|mmengine")
