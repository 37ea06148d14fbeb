# LLaVA's choice for CLIP, commonly kept for SigLIP.
vision_encoder = dict(path="google/siglip2-base-patch16-224", select_layer=-2)
