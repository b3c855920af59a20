"""Sparse training within the trainers of others: a callback or a hook each, that takes what `sparsify_fx.apply` takes.

Nothing is imported here: `sparsify_fx.integrations.lightning` needs lightning, and so on; one that is not installed is
told with the line that installs it.

    lightning.py      SparsifyCallback for Trainer(callbacks=[...])
    transformers.py   SparsifyCallback for Trainer(callbacks=[...]), save_pretrained
    accelerate.py     Sparsify: prepare, accumulation, checkpoints
    timm.py           Sparsify: loops like timm's train.py
    training.py       what they have in common: one training, from the plain model to the merged one
    budget.py         how the steps of a trainer are divided into the epochs and runs of a schedule
    penalties.py      the gradient of a penalty, added where no loss is to be had
"""
