"""From patch features (I, N, D_vision) to image embeddings (I, N', D_llm). One file each; `base.py` is the contract."""
