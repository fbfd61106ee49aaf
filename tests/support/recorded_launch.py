"""launch.py, which also writes a checksum of every training batch into the file $BATCHES."""

import os
import runpy
import zlib

if __name__ == "__main__":
    from flm_jax.modes import train

    put_on_devices = train.put_on_devices

    def record(batch):
        content = b"".join(batch[name].tobytes() for name in sorted(batch))
        with open(os.environ["BATCHES"], "a") as file:
            file.write(f"{zlib.crc32(content)}\n")
        return put_on_devices(batch)

    train.put_on_devices = record
    runpy.run_path("launch.py", run_name="__main__")
