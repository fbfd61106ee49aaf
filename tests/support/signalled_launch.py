"""launch.py, which sends itself the signal $NUMBER in the moment $MOMENT."""

import os
import runpy


def send_before(holder, name, call=1):
    """At the given call of a function, right before it runs."""
    function, calls = getattr(holder, name), []

    def called(*arguments, **settings):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), int(os.environ["NUMBER"]))
        return function(*arguments, **settings)

    setattr(holder, name, called)


if __name__ == "__main__":
    from flm_jax.config import build
    from flm_jax.modes import evaluate, train
    from flm_jax.runtime import checkpoint

    moments = {
        "reading the lists": lambda: send_before(build, "read_splits"),
        "creating the state": lambda: send_before(train, "create_train_state"),
        "a step": lambda: send_before(train, "put_on_devices", 3),
        "validating": lambda: send_before(train, "predict_faces"),
        "saving": lambda: send_before(checkpoint.Checkpoints, "save"),
        "evaluating": lambda: send_before(evaluate, "predict_faces"),
    }
    moments[os.environ["MOMENT"]]()
    runpy.run_path("launch.py", run_name="__main__")
