from vlmtool.models.projectors.pixel_shuffle import PixelShuffleProjector

projector = dict(type=PixelShuffleProjector, factor=2)
