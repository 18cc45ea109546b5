"""A photographer's folder: 16 camera-named photos of the sample in four scenes, with JPEGs and sidecars beside them."""

import shutil

SCENES = {
    "coffee-cup": ("kitchen table", "P50{:05}.ORF"),  # two ground truths, which lie in gt/
    "motorbike": ("garage", "DSC{:05}.ARW"),
    "cat": ("sofa", "_DSC{:04}.ARW"),
    "retina": ("clinic", "DSCF{:04}.RAF"),  # X-Trans
}


def shoot(sample_set, folder, *scenes):
    """Copies the photos of these scenes, or of all, under camera names; the sample's names by theirs, relative to `folder`."""
    names = {}
    for scene in scenes or SCENES:
        place, pattern = SCENES[scene]
        (folder / place).mkdir(parents=True)
        for number, path in enumerate(sorted(sample_set.glob(f"*_{scene}_*.dng")), 17):
            is_truth = scene == "coffee-cup" and "_GT_" in path.name
            target = folder / place / ("gt" if is_truth else ".") / pattern.format(number)
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(path, target)
            target.with_suffix(".JPG").write_bytes(b"\xff\xd8\xff\xe0 a small picture")
            target.with_name(f"{target.name}.xmp").write_text("<x:xmpmeta/>")
            names[target.relative_to(folder).as_posix()] = path.name
    return names
