"""Libraries that talk while they load: their notes are not the user's concern."""

import logging
import os
import sys
import warnings


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
    for name in ("bitsandbytes", "torch.distributed.elastic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("DeepSpeed").disabled = True  # it sets its own level when imported
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch|peft|transformers|mmengine")
