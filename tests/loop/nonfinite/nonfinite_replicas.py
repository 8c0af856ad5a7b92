"""A poisoned example, and an id without a row, on two replicas; prints what was said as JSON."""

import json

import loop
from tests.loop import steps
from tests.loop.nonfinite import test_examination


def main() -> None:
    """Trains until the poison and one step more."""
    replicas = loop.distribute.mirrored(virtual_devices=2)
    with replicas.scope():
        net = steps.Net(dropout=0.2)
        optimizer = loop.optimizers.Adam(0.01)
        step = loop.GradientStep(steps.squared_errors(net), net.trainable_variables, optimizer)
    poisoned = test_examination.POISONED
    for seed in range(100):
        feed = loop.feeds.Arrays(test_examination.poisoned_arrays(), batch_size=8, seed=seed)
        k = next(s for s in range(100) if poisoned in feed.example_ids(s))
        if feed.example_ids(k).tolist().index(poisoned) >= 4 and k > 0:
            break
    state = {"net": net, "optimizer": optimizer}
    trainer = loop.Trainer(step=step, feed=feed, state=state, compile="graph", replicas=replicas)
    trainer.train(until=k)
    before = steps.values(trainer.state)
    try:
        trainer.train(until=k + 1)
    except loop.NonFiniteError as error:
        same = steps.same(before, steps.values(trainer.state))
        with replicas.scope():
            lookup = test_examination.lookup_trainer("graph", 50, replicas=replicas)
        id_line = test_examination.stops_at_13(lookup)
        print(json.dumps({"line": str(error), "same": same, "id_line": id_line}))


if __name__ == "__main__":
    main()
