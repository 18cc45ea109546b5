"""Small sources: empty files with names of RawNIND, and index YAMLs."""

import yaml

from rawnind.source.index import INDEX_NAME


def sha1(number):
    return f"{number:040x}"


def name(scene, number, *, gt=False, iso="100", cfa="Bayer", ext="arw"):
    return f"{cfa}_{scene}_{'GT_' * gt}ISO{iso}_sha1={sha1(number)}.{ext}"


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def images(*filenames):
    return [{"filename": each, "sha1": each.partition("sha1=")[2][:40]} for each in filenames]


def entry(clean=(), noisy=(), test_reserve=False, unknown_sensor=False):
    return {
        "clean_images": images(*clean),
        "noisy_images": images(*noisy),
        "test_reserve": test_reserve,
        "unknown_sensor": unknown_sensor,
    }


def listed(root, layout):
    path = root / INDEX_NAME
    path.write_text(yaml.safe_dump(layout))
    return path


def why(index):
    return {refused.file: refused.why for refused in index.refused}


FILES = (
    ("Bayer/TEST_a_b", name("TEST_a_b", 1, gt=True)),
    ("Bayer/TEST_a_b", name("TEST_a_b", 2, iso="Hi 3200")),
    ("Bayer/c-d", name("c-d", 4, gt=True, ext="CR2")),
    ("Bayer/c-d", name("c-d", 3, gt=True)),
    ("Bayer/c-d", name("c-d", 5, iso="Unknown", ext="crw")),
    ("X-Trans/UNK_e", name("UNK_e", 6, cfa="X-Trans", ext="raf")),
)


def lay_out(root, layout):
    for folder, filename in FILES:
        nested = f"{folder}/{'gt/' * ('_GT_' in filename)}{filename}"
        touch(root, {"flat": filename, "nested": nested, "src": f"src/{nested}"}[layout])
