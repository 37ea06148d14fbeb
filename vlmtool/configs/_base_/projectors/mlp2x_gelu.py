from vlmtool.models.projectors.mlp import MLPProjector

projector = dict(type=MLPProjector)
