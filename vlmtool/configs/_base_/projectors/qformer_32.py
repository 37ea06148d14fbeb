from vlmtool.models.projectors.qformer import QFormerProjector

projector = dict(type=QFormerProjector, num_queries=32)
