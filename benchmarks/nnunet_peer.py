"""What `bench_nnunet.py` runs in nnunetv2's environment: its own planning, training and prediction, by the clock."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path


def main(root: Path, minutes: float, batch: int) -> None:
    """Train on root/raw/Dataset500_medfm, predict its imagesTs into root/found, leave root/peer.json."""
    wanted = {"raw": root / "raw", "preprocessed": root / "preprocessed", "results": root / "results", "n_proc_DA": 1}
    for name, value in wanted.items():  # before it is imported; one process augments beside the training
        os.environ[f"nnUNet_{name}"] = str(value)
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    class Timed(nnUNetTrainer):  # its steps, loss and augmentation; its polynomial rate over minutes, not epochs
        steps = 0

        def run_training(self) -> None:
            self.on_train_start()
            start = time.monotonic()
            while (share := (time.monotonic() - start) / 60 / minutes) < 1:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.initial_lr * (1 - share) ** 0.9
                self.train_step(next(self.dataloader_train))
                self.steps += 1
            self.on_train_end()

    extract_fingerprints([500], num_processes=1)
    plan_experiments([500])
    planned = root / "preprocessed" / "Dataset500_medfm" / "nnUNetPlans.json"
    plans = json.loads(planned.read_text())
    planned_batch = plans["configurations"]["3d_fullres"]["batch_size"]
    plans["configurations"]["3d_fullres"]["batch_size"] = batch or planned_batch
    preprocess([500], configurations=["3d_fullres"], num_processes=[1])
    about = json.loads((root / "raw" / "Dataset500_medfm" / "dataset.json").read_text())
    trainer = Timed({**plans, "continue_training": False}, "3d_fullres", "all", about, device=torch.device("cpu"))
    trainer.run_training()
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()

    reader, found = trainer.plans_manager.image_reader_writer_class(), root / "found"
    found.mkdir(exist_ok=True)
    files = sorted((root / "raw" / "Dataset500_medfm" / "imagesTs").iterdir())
    seconds: dict[str, float] = {}
    for mirrored in (False, True):  # the last, its default, is what stays in `found`
        predictor = nnUNetPredictor(
            use_mirroring=mirrored, perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False
        )
        predictor.manual_initialization(
            trainer.network, trainer.plans_manager, trainer.configuration_manager, None, about, "nnUNetTrainer",
            trainer.inference_allowed_mirroring_axes,
        )  # fmt: skip
        predictor.list_of_parameters = [trainer.network.state_dict()]
        times = []
        for file in files if mirrored else files[:5]:
            image, properties = reader.read_images([str(file)])
            start = time.perf_counter()
            labels = predictor.predict_single_npy_array(image, properties)
            times.append(time.perf_counter() - start)
            reader.write_seg(labels, str(found / file.name.replace("_0000", "")), properties)
        seconds["mirrored" if mirrored else "plain"] = statistics.median(times)
    rest = {"steps": trainer.steps, "batch": batch or planned_batch, "planned batch": planned_batch}
    (root / "peer.json").write_text(json.dumps({**rest, "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
