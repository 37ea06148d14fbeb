vision_encoder = dict(path="vlmtool://demo/assets/vision_encoder", select_layer=-2)
