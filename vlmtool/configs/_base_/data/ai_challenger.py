# Made by `vlmtool data convert ai-challenger`, the picture after or before the question as in Basic-VLM.
data = dict(path="data/ai_challenger/llava_captions.json", image_folder="data/ai_challenger/images", max_length=2048)
