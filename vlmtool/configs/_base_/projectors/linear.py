from vlmtool.models.projectors.linear import LinearProjector

projector = dict(type=LinearProjector)
