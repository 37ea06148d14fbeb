llm = dict(path="lmsys/vicuna-7b-v1.5", template="vicuna")
