from vlmtool.models.projectors.resampler import PerceiverResampler

projector = dict(type=PerceiverResampler, num_latents=64, depth=2, num_heads=8)
