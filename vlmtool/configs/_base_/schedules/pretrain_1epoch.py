schedule = dict(lr=1e-3, epochs=1.0, batch_size=32, save_every=500, save_epochs=True)
