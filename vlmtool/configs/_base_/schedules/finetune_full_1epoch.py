schedule = dict(lr=2e-5, epochs=1.0, batch_size=16, save_every=500, save_epochs=True)
