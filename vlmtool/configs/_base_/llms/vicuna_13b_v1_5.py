llm = dict(path="lmsys/vicuna-13b-v1.5", template="vicuna")
