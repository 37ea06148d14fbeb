vision_encoder = dict(path="openai/clip-vit-large-patch14", select_layer=-2)
