# A base model, with Vicuna's prompt as in Xmodel-VLM (arXiv 2405.09215).
llm = dict(path="XiaoduoAILab/Xmodel_LM", template="vicuna")
