"""The ``voxtract`` command: arguments -> plan -> pipeline -> exit code. The only module that prints.

Results go to stdout, progress and errors to stderr. Exit code 0: all done; 1: some files failed, each named with its
reason; 2: wrong usage or input; 130: stopped with Ctrl-C.

Heavy imports wait until a command needs them, so that ``--version`` and ``--help`` answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from voxtract.describe import Description
    from voxtract.model import Source
    from voxtract.report import Report
    from voxtract.settings import Settings
    from voxtract.storage import Place

VIEWS = ("axial", "coronal", "sagittal")
ANNOTATION_FORMATS = ("csv", "coco", "yolo", "voc", "parquet")
CONVERT_TO = ("nifti", "supervisely", "supervisely-nifti", "webknossos", "tables", *ANNOTATION_FORMATS)
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with `argv` (by default the arguments of the process) and return its exit code."""
    # Nothing here uses BLAS, but NumPy starts its threads, which spin on the cores that the run needs.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    parser = _parser()
    args, rest = parser.parse_known_args(_joined(sys.argv[1:] if argv is None else argv))
    if len(rest) == 1 and not rest[0].startswith("-") and getattr(args, "source", "") is None and "output" in args:
        # `extract SOURCE --recursive OUT`: argparse has given the first of the two to OUT
        args.source, args.output, rest = args.output, _place(rest[0]), []
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.version:
        from importlib.metadata import version

        print(f"voxtract {version('voxtract')}")
        return 0
    if args.work is None:
        parser.print_help(sys.stderr)
        return 2
    from voxtract.errors import VoxtractError

    _set_up_log(args.debug)
    try:
        work: Callable[[argparse.Namespace], int] = args.work
        return work(args)
    except VoxtractError as error:
        if args.debug:
            raise
        print(f"voxtract: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("voxtract: stopped; every file that has its final name is complete", file=sys.stderr)
        return 130


def run() -> NoReturn:
    """Entry point of the command: `main`, and out without taking the interpreter apart, which takes 25 ms."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone, as in `voxtract inspect … | head -1`
        code = 1
    os._exit(code)


def _joined(argv: Sequence[str]) -> list[str]:
    """Join options and negative values (``--normalization -600,1500``), which argparse takes for options."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in ("--normalization", "--pad-value", "--threshold") and re.match(r"-[\d.]", word):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def _set_up_log(debug: bool) -> None:
    import logging

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("voxtract: %(message)s"))
    log = logging.getLogger("voxtract")
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(logging.DEBUG if debug else logging.WARNING)


# ---------------------------------------------------------------- commands


def _slices(args: argparse.Namespace) -> int:
    from voxtract.settings import Settings

    settings = Settings(
        views=(args.view,),
        annotations=None,
        saving_mode=args.saving_mode,
        target_size=args.target_size,
        **_image_options(args),
    )
    return _plain(args, settings, "image", "slices")


def _annotations(args: argparse.Namespace) -> int:
    from voxtract.settings import Settings

    settings = Settings(
        views=(args.view,),
        images=None,
        saving_mode=args.saving_mode,
        target_size=args.target_size,
        reorient=args.reorient,
        **_annotation_options(args),
    )
    return _plain(args, settings, "labels", "annotations")


def _plain(args: argparse.Namespace, settings: Settings, role: Any, kind: Any) -> int:
    from voxtract.read import open_plain
    from voxtract.slices import run_plain

    source = open_plain(args.input, role, args.volume_index)
    if args.dry_run:
        return _plan(args, source, settings)
    report = run_plain(source, args.output, settings, kind, save_stats=args.save_stats, **_run_options(args))
    return _show(args, report)


def _extract(args: argparse.Namespace) -> int:
    from voxtract.pipeline import extract_source
    from voxtract.settings import Settings

    settings = Settings(
        views=None if args.views is None else tuple(args.views),
        annotations=None if args.annotations == ["none"] else tuple(args.annotations),
        saving_mode=args.saving_mode,
        target_size=args.target_size,
        allow_affine_mismatch=args.allow_affine_mismatch,
        **_image_options(args),
        **_annotation_options(args),
        **_data_options(args),
    )
    source = _open(args)
    if args.dry_run:
        return _plan(args, source, settings)
    words = {"resume": args.resume, "overwrite": args.overwrite, **_run_options(args)}
    if args.dask is None:
        report = extract_source(source, args.output, settings, **words)
    else:
        from voxtract.cluster import connect

        with connect(args.dask) as client:
            report = extract_source(source, args.output, settings, client=client, **words)
    return max(_show(args, report), int(args.strict and bool(report.skipped or report.remarks)))


def _convert(args: argparse.Namespace) -> int:
    from voxtract.conversion import convert

    report = convert(
        _open(args),
        args.output,
        args.to,
        overwrite=args.overwrite,
        workers=args.workers,
        memory_limit=args.memory_limit,
        progress=False if args.quiet else None,
        **dict(map(_word, args.options)),
    )
    return max(_show(args, report), int(args.strict and bool(report.skipped or report.remarks)))


def _plan(args: argparse.Namespace, source: Source, settings: Settings) -> int:
    from voxtract.pipeline import plan

    report = plan(source, args.output, settings, backend=args.backend, device=args.device, workers=args.workers)
    for result in report.failed:
        print(f"voxtract: failed: {result.error}", file=sys.stderr)
    return _show(args, report)


def _show(args: argparse.Namespace, report: Report) -> int:
    if args.json:
        print(report.to_json())
    elif not args.quiet:
        print(report.summary)
    return report.exit_code


def _inspect(args: argparse.Namespace) -> int:
    from voxtract.describe import describe

    source = _open(args)
    described = list(describe(source, read=args.read or ("all" if len(source.cases) == 1 else "labels")))
    if args.json:
        from dataclasses import asdict

        facts = {
            "source": source.description,
            "volumes": [asdict(d) for d in described],
            "matches": [asdict(m) for m in source.matches],
            "classes": None if source.classes is None else source.classes.to_dict(),
            "skipped": [asdict(s) for s in source.skipped],
            "remarks": [asdict(r) for r in source.remarks],
        }
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print(source.description)
        print(_table(["case", "role", "shape", "spacing mm", "axes", "dtype", "scale", "values"], map(_row, described)))
        if source.matches:
            rows = [[match.case, match.role, match.where, match.why] for match in source.matches]
            print(f"\n{_table(['case', 'role', 'file', 'why'], rows)}")
        if source.classes is not None:
            print(f"\nclasses: {', '.join(f'{one.id} {one.name}' for one in source.classes.categories) or 'by value'}")
        for skip in source.skipped:
            print(f"left out: {skip.where}: {skip.reason}")
        for remark in source.remarks:
            print(f"look at: {remark.where}: {remark.message}")
    for one in described:
        if one.error:
            print(f"voxtract: {one.error}", file=sys.stderr)
    return 1 if any(one.error for one in described) else 0


def _row(one: Description) -> list[str]:
    if one.error:
        return [one.case, one.role, "cannot be read", "", "", "", "", ""]
    sign = "-" if one.intercept < 0 else "+"
    scale = "" if (one.slope, one.intercept) == (1, 0) else f"x {one.slope:g} {sign} {abs(one.intercept):g}"
    values = [f"{one.range[0]:g} to {one.range[1]:g}"] if one.range else []
    if one.labels:
        shown = [f"{label}: {count:,}" for label, count in list(one.labels.items())[:6]]
        more = f", … {len(one.labels) - 6} more" if len(one.labels) > 6 else ""
        values.append(f"as labels {len(one.labels)} (voxels {', '.join(shown)}{more})")
    return [
        one.case,
        one.role,
        " x ".join(map(str, one.shape)),
        " x ".join(f"{mm:.4g}" for mm in one.spacing_mm),
        one.orientation,
        one.dtype,
        scale,
        "; ".join(values),
    ]


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _check(args: argparse.Namespace) -> int:
    from voxtract.check import check

    found = check(_open(args))
    if args.html is not None:
        from voxtract.html.checked import check_html
        from voxtract.write.remote import staging as staging_of

        with staging_of(args.html.resolve().parent) as staging:
            staging.write(args.html.name, check_html(found))
    if args.json:
        print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    elif not args.quiet:
        print(found)
    return found.exit_code


def _preview(args: argparse.Namespace) -> int:
    from voxtract.preview import preview

    made = preview(args.folder, args.output, cases=args.cases, views=args.views, tiles=args.tiles)
    return _show_path(args, made)


def _verify(args: argparse.Namespace) -> int:
    from voxtract.verify import verify

    found = verify(args.folder, workers=args.workers)
    if args.json:
        print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
    elif not args.quiet:
        print(found)
    return found.exit_code


def _report(args: argparse.Namespace) -> int:
    from voxtract.html.report import build_report

    return _show_path(args, build_report(args.folder, args.output))


def _show_path(args: argparse.Namespace, made: Place) -> int:
    if args.json:
        print(json.dumps({"output": str(made)}))
    elif not args.quiet:
        print(made)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from voxtract.demo import run_demo

    made = run_demo(args.output, progress=False if args.quiet else None)
    if args.json:
        print(json.dumps(made.to_dict(), indent=2, ensure_ascii=False))
    elif not args.quiet:
        print(made)
    return made.report.exit_code


def _doctor(args: argparse.Namespace) -> int:
    from voxtract.doctor import examine

    facts = examine()
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    print(
        f"Python {facts['python']} on {facts['platform']}, {facts['cores']} of {facts['cores_of_machine']} cores usable"
    )
    print(f"memory limit {facts['memory_limit_mb']:,} MB unless --memory-limit says otherwise")
    for title in ("backends", "codecs"):
        rows = [["", name, "yes" if can["available"] else "no", can["note"]] for name, can in facts[title].items()]
        print(f"\n{_table([title, '', '', ''], rows)}")
    print(f"\n{_table(['packages', '', ''], [['', n, v or 'not installed'] for n, v in facts['packages'].items()])}")
    return 0


# ---------------------------------------------------------------- arguments


def _open(args: argparse.Namespace) -> Source:
    from voxtract.read import open_source

    return open_source(
        args.source,
        image=args.image,
        labels=args.labels,
        format=args.format,
        recursive=args.recursive,
        volume_index=args.volume_index,
        image_suffix=args.image_suffix,
        labels_suffix=args.labels_suffix,
        **dict(map(_word, args.set)),
    )


def _word(text: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE``; the value is JSON where it is that, else text."""
    from voxtract.errors import InvalidInput

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise InvalidInput(f"--set {text!r}: write NAME=VALUE, for instance --set mode=instance")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _image_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "images": None if args.images == "none" else args.images,
        "pad_value": args.pad_value,
        "dtype": args.dtype,
        "normalization": args.normalization,
        "compression": args.compression,
        "reorient": args.reorient,
    }


def _annotation_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "extraction_mode": args.extraction_mode,
        "data_mode": args.data_mode,
        "components": args.components,
        "center": args.center,
        "extra_columns": tuple(args.extra_columns),
        "objects": args.objects,
        "connectivity": args.connectivity,
        "min_size": args.min_size,
        "classes": args.classes,
        "threshold": args.threshold,
        "skip_empty": args.skip_empty,
        "index_width": args.index_width,
    }


def _data_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "slices": args.slices,
        "margin": args.margin,
        "spacing": None if args.spacing is None else args.spacing * 3 if len(args.spacing) == 1 else args.spacing,
        "resize": args.resize,
        "interpolation": args.interpolation,
        "crop": args.crop,
        "class_map": None if args.class_map is None else _class_map(args.class_map),
        "masks": args.masks,
        "split": None if args.split is None else dict(args.split),
        "split_as": args.split_as,
        "seed": args.seed,
        "stratify": args.stratify,
        "folds": args.folds,
        "sample_format": args.sample_format,
        "shard_size": args.shard_size,
    }


def _class_map(words: list[str]) -> dict[str, Any]:
    """Read ``LABEL=NAME`` words, or one JSON file of them."""
    from voxtract.errors import InvalidInput, UnreadableFile

    if len(words) == 1 and "=" not in words[0]:
        try:
            told = json.loads(Path(words[0]).read_text(encoding="utf-8"))
        except OSError as why:
            raise UnreadableFile(f"{words[0]}: the class map cannot be read: {why.strerror}") from why
        except ValueError as why:
            raise InvalidInput(f'{words[0]}: is no JSON ({why}); write {{"1": "liver", "2": "tumour"}}') from why
        if not isinstance(told, dict):
            raise InvalidInput(f'{words[0]}: is no JSON object; write {{"1": "liver", "2": "tumour"}}')
        return told
    pairs = [word.partition("=")[::2] for word in words]
    if not all(name for _, name in pairs) or len({label for label, _ in pairs}) != len(pairs):
        raise InvalidInput(f"class_map {' '.join(words)!r}: write LABEL=NAME for each class once, or give a JSON file")
    return dict(pairs)


def _run_options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "backend": args.backend,
        "device": args.device,
        "workers": args.workers,
        "memory_limit": args.memory_limit,
        "progress": False if args.quiet else None,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="voxtract",
        description="Annotated volumes (CT, MR, EM) into training data: slices, and boxes and centers of components.",
        epilog="exit code: 0 all done, 1 some files failed (each is named), 2 wrong usage or input, 130 stopped",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.set_defaults(work=None, debug=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    one = _command(commands, "slices", _slices, "every slice of every .nii.gz of a folder (or one file) as an image")
    _add_plain(one)
    _add_images(one, formats=("tiff", "png"))
    _add_geometry(one)
    _add_run(one)

    one = _command(commands, "annotations", _annotations, "boxes or centers of the components of label volumes as CSV")
    _add_plain(one)
    _add_annotations(one, index_width=0)
    _add_geometry(one)
    _add_run(one)

    one = _command(commands, "extract", _extract, "images and annotations together, several views from one decode")
    _add_source(one)
    one.add_argument("output", type=_place, metavar="OUT", help="folder or URL to write to; made if missing")
    one.add_argument("--views", nargs="+", choices=VIEWS, help="views to cut (default: the source's own, else axial)")
    one.add_argument(
        "--annotations",
        nargs="+",
        choices=(*ANNOTATION_FORMATS, "none"),
        default=["csv"],
        help="formats of annotations, one or several (default: csv)",
    )
    one.add_argument(
        "--saving-mode", choices=("case", "view", "flat"), default="case", help="OUT/<case>/<view>, OUT/<view> or OUT"
    )
    one.add_argument(
        "--strict", action="store_true", help="exit code 1 also where files were left out or remarks were made"
    )
    one.add_argument("--allow-affine-mismatch", action="store_true", help="accept labels with another affine")
    one.add_argument("--resume", action="store_true", help="go on with the run that was interrupted in OUT")
    one.add_argument("--overwrite", action="store_true", help="replace the output of an earlier run in OUT")
    _add_images(one, formats=("tiff", "png", "webdataset", "zarr", "none"))
    _add_shards(one)
    _add_annotations(one, index_width=3)
    _add_geometry(one)
    _add_data(one)
    _add_run(one)
    one.add_argument(
        "--dask", metavar="WHERE", help="spread the cases over a Dask cluster: tcp://HOST:PORT, local or cuda"
    )

    one = _command(commands, "convert", _convert, "whole volumes and annotations from one tool's form into another's")
    _add_source(one, "--from")
    one.add_argument("output", type=_place, metavar="OUT", help="folder or URL to write to; made if missing")
    one.add_argument("--to", required=True, metavar="NAME", help=f"one of {', '.join(CONVERT_TO)}")
    one.add_argument(
        "--with",
        dest="options",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a word of the form that is written, as by=plane",
    )
    one.add_argument("--overwrite", action="store_true", help="write into a folder that holds something already")
    one.add_argument(
        "--strict", action="store_true", help="exit code 1 also where files were left out or remarks were made"
    )
    one.add_argument("--workers", type=int, metavar="N", help="threads (default: all cores)")
    one.add_argument("--memory-limit", type=_bytes, metavar="SIZE", help="for volumes in memory, e.g. 8GB")

    one = _command(commands, "inspect", _inspect, "what a volume or a folder is: shape, spacing, axes, dtype, labels")
    _add_source(one)
    one.add_argument(
        "--read",
        choices=("headers", "labels", "all"),
        help="whose voxels to read too, for range and labels (default: labels; all for a single case)",
    )

    one = _command(commands, "check", _check, "what is wrong with a data set, before it is extracted")
    _add_source(one)
    one.add_argument("--html", type=_place, metavar="FILE", help="also write it as a page")

    one = _command(commands, "preview", _preview, "contact sheet of an extraction: slices with their boxes, as PNG")
    one.add_argument("folder", type=_place, metavar="OUT", help="output folder of `voxtract extract`")
    one.add_argument("--output", type=_place, metavar="FILE", help="PNG to write (default: OUT/preview.png)")
    one.add_argument("--cases", nargs="+", metavar="ID", help="cases to draw (default: spread over all)")
    one.add_argument("--views", nargs="+", choices=VIEWS, help="views to draw (default: all there are)")
    one.add_argument("--tiles", type=int, default=24, metavar="N", help="slices to draw at most (default: 24)")

    one = _command(commands, "report", _report, "one HTML page about an extraction: counts, sizes, outliers, slices")
    one.add_argument("folder", type=_place, metavar="OUT", help="output folder of `voxtract extract`")
    one.add_argument("--output", type=_place, metavar="FILE", help="page to write (default: OUT/report.html)")

    one = _command(commands, "verify", _verify, "are the files of an extraction still what was written")
    one.add_argument("folder", type=_place, metavar="OUT", help="output folder of `voxtract extract`")
    one.add_argument("--workers", type=int, metavar="N", help="threads (default: usable cores)")

    one = _command(commands, "demo", _demo, "make a small data set, extract it, draw a contact sheet")
    one.add_argument("output", type=_place, metavar="OUT", help="folder to write to; made if missing")

    _command(commands, "doctor", _doctor, "which backends and codecs this installation has, and why not")
    return parser


def _command(commands: Any, name: str, work: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(work=work)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    parser.add_argument("--debug", action="store_true", help="tracebacks and detailed log")
    return parser


def _add_plain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=_place, metavar="IN", help="folder of .nii.gz files, or one .nii.gz or .nii file")
    parser.add_argument("output", type=_place, metavar="OUT", help="folder or URL to write to; made if missing")
    parser.add_argument("--view", choices=VIEWS, default="axial", help="axis to cut: z, y or x (default: axial)")
    parser.add_argument(
        "--saving-mode", choices=("case", "view"), default="case", help="OUT/<case>/<view> or OUT/<view>"
    )
    parser.add_argument("--volume-index", type=int, metavar="N", help="frame of 4D files, from 0")
    parser.add_argument("--save-stats", action="store_true", help="write OUT/<view>_…_stats.csv with the counts")


def _add_source(parser: argparse.ArgumentParser, *names: str) -> None:
    group = parser.add_argument_group("source")
    group.add_argument(
        "source", nargs="?", type=_place, metavar="SOURCE", help="file, folder or URL; its layout is recognised"
    )
    group.add_argument("--image", type=_place, metavar="PATH", help="image file or folder, named")
    group.add_argument("--labels", type=_place, metavar="PATH", help="label file or folder, named")
    group.add_argument(
        *names,
        "--format",
        dest="format",
        metavar="NAME",
        help="take SOURCE as nifti, zarr, dicom, supervisely, labelbox or webknossos",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a word of the format's reader, as mode=instance",
    )
    group.add_argument("--recursive", action="store_true", help="look into subfolders too")
    group.add_argument("--volume-index", type=int, metavar="N", help="frame of 4D files, from 0")
    group.add_argument(
        "--image-suffix", metavar="TEXT", help="end of image names that is no part of the case id (_0000)"
    )
    group.add_argument(
        "--labels-suffix", metavar="TEXT", help="end of label names that is no part of the case id (_seg)"
    )


def _add_images(parser: argparse.ArgumentParser, *, formats: tuple[str, ...]) -> None:
    group = parser.add_argument_group("images")
    group.add_argument("--images", choices=formats, default="tiff", help="format of slice images (default: tiff)")
    group.add_argument(
        "--pad-value", type=float, default=0.0, help="value of the padding, in output units (default: 0)"
    )
    group.add_argument("--dtype", default="auto", help="auto, or a dtype to force, rounded and saturated")
    group.add_argument(
        "--normalization",
        type=_normalization,
        metavar="HOW",
        help="min-max, z-score, percentile, a CT window (lung, bone, brain, …) or CENTER,WIDTH; to float32",
    )
    group.add_argument("--compression", choices=("zlib", "zstd", "lzw"), help="of TIFF images; zstd also of zarr")


def _add_shards(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("shards (--images webdataset)")
    group.add_argument("--sample-format", choices=("tiff", "png"), default="tiff", help="of images (default: tiff)")
    group.add_argument(
        "--shard-size", type=_bytes, default=1_000_000_000, metavar="SIZE", help="of a shard at most (default: 1GB)"
    )


def _add_annotations(parser: argparse.ArgumentParser, *, index_width: int) -> None:
    group = parser.add_argument_group("annotations")
    group.add_argument(
        "--extraction-mode", choices=("slice", "volume"), default="slice", help="a CSV a slice, or a volume"
    )
    group.add_argument(
        "--data-mode",
        choices=("center", "box", "radius"),
        default="center",
        help="X,Y,Z, or corners, or X,Y,Z and half extents",
    )
    group.add_argument(
        "--components", choices=("slice", "volume"), help="found in slices or in 3D (default: as --extraction-mode)"
    )
    group.add_argument("--center", choices=("box", "mass"), default="box", help="middle of the box, or mean position")
    group.add_argument(
        "--extra-columns", nargs="+", default=[], metavar="NAME", help="LABEL, AREA: label value, number of voxels"
    )
    group.add_argument(
        "--objects",
        choices=("components", "labels"),
        default="components",
        help="a row per component or per label value",
    )
    group.add_argument("--connectivity", type=int, metavar="N", help="1 joins over faces only (default: diagonals too)")
    group.add_argument("--min-size", type=int, default=1, metavar="N", help="leave out components with fewer voxels")
    group.add_argument("--classes", type=int, nargs="+", metavar="LABEL", help="label values to take (default: all)")
    group.add_argument("--threshold", type=float, metavar="VALUE", help="values above it are label 1")
    group.add_argument("--skip-empty", action="store_true", help="no CSV for slices without annotations")
    group.add_argument("--index-width", type=int, default=index_width, metavar="N", help="digits of the slice index")


def _add_geometry(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("geometry")
    group.add_argument("--target-size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="pad slices to this size")
    group.add_argument("--reorient", metavar="CODES", help="flip and permute axes first, e.g. RAS")


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("choosing data")
    group.add_argument(
        "--slices", default="all", metavar="WHICH", help="all, annotated, every=K, or START:STOP[:STEP] (default: all)"
    )
    group.add_argument(
        "--margin", type=int, default=0, metavar="N", help="slices more around each annotated one (--slices annotated)"
    )
    group.add_argument(
        "--spacing", type=float, nargs="+", metavar="MM", help="resample to this voxel spacing: one number, or x y z"
    )
    group.add_argument(
        "--resize", type=int, nargs=3, metavar=("X", "Y", "Z"), help="resample to this many voxels; -1 keeps an axis"
    )
    group.add_argument(
        "--interpolation", choices=("linear", "cubic", "nearest"), default="linear", help="of resampled images"
    )
    group.add_argument(
        "--crop", type=_crop, metavar="BOX", help="foreground, a size X,Y,Z, or a box X,Y,Z:X,Y,Z, end excluded"
    )
    group = parser.add_argument_group("classes and parts")
    group.add_argument(
        "--class-map", nargs="+", metavar="LABEL=NAME", help='names of labels ("*=NAME": all others), or a JSON file'
    )
    group.add_argument("--masks", action="store_true", help="also masks: RLE in COCO, polygons in YOLO")
    group.add_argument(
        "--split", type=_share, nargs="+", metavar="NAME=PART", help="parts of the data set: train=0.8 val=0.1 test=0.1"
    )
    group.add_argument("--split-as", choices=("folders", "lists"), default="folders", help="folders, or lists of ids")
    group.add_argument("--seed", type=int, default=0, help="another seed, another split")
    group.add_argument("--stratify", action="store_true", help="every class in each part as --split says")
    group.add_argument("--folds", type=int, metavar="K", help="lists for cross-validation")


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--backend", choices=("auto", "cpu", "cuda"), default="auto", help="what computes (default: auto)"
    )
    group.add_argument("--device", type=int, default=0, metavar="N", help="index of the CUDA device (default: 0)")
    group.add_argument("--workers", type=int, metavar="N", help="threads (default: all cores)")
    group.add_argument("--memory-limit", type=_bytes, metavar="SIZE", help="for volumes in memory, e.g. 8GB")
    group.add_argument("--dry-run", action="store_true", help="read headers, say what would be made, write nothing")


def _place(text: str) -> Place:
    from voxtract.storage import place

    return place(text)


def _normalization(text: str) -> str | tuple[float, float]:
    if "," not in text:
        return text
    try:
        center, width = map(float, text.split(","))
    except ValueError as why:
        raise argparse.ArgumentTypeError(f"{text!r} is no window; write CENTER,WIDTH, for example -600,1500") from why
    return center, width


def _crop(text: str) -> str | tuple[Any, ...]:
    if text == "foreground":
        return text
    try:
        ends = [tuple(map(int, end.split(","))) for end in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or any(len(end) != 3 for end in ends):
        raise argparse.ArgumentTypeError(f"{text!r} is no crop; write foreground, X,Y,Z or X,Y,Z:X,Y,Z")
    return ends[0] if len(ends) == 1 else tuple(ends)


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition("=")
    try:
        return name, float(share)
    except ValueError as why:
        raise argparse.ArgumentTypeError(f"{text!r} is no part; write NAME=FRACTION, for example train=0.8") from why


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+|\d+\.\d+)\s*([a-zA-Z]*)", text)
    if found is None or found[2].upper() not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 8GB or 500MB")
    return int(float(found[1]) * _UNITS[found[2].upper()])
