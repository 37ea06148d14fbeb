llm = dict(path="vlmtool://demo/assets/llm")
