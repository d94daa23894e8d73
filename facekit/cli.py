"""The command line: one ``add(...)`` per verb in ``build_app``. Engines are imported only when their verb runs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import sys
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from facekit import __version__, configs
from facekit.core.errors import FacekitError, UsageError

WIDE = {"max_content_width": 110}


def write_sections(command: TyperCommand | TyperGroup, context: typer.Context, formatter: Any) -> None:
    """The options of a verb under the headings of their groups, its own first."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        if record := parameter.get_help_record(context):
            title = getattr(parameter, "rich_help_panel", None) or "Options"
            name, text = record
            # An argument's Python type ("<list[str]>") tells a user nothing.
            sections.setdefault(title, []).append((name.partition(" <")[0], text))
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)


class Verb(TyperCommand):
    """A command whose help is in sections."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Called by ``--help``."""
        write_sections(self, ctx, formatter)


class Group(TyperGroup):
    """A command group whose help is in sections, with the whole sentence of every verb."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Called by ``--help``."""
        write_sections(self, ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(1000)) for name, verb in self.commands.items()])


def metavar(annotation: Any) -> str:
    """What stands behind a flag in the help: N, X, PATH, NAME or TEXT, several with commas."""
    inner = [a for a in typing.get_args(annotation) if a not in (type(None), Ellipsis)]
    if configs.choices_of(annotation):
        return "NAME"
    if typing.get_origin(annotation) is tuple:
        return f"{metavar(inner[0])},..."
    if inner:
        return metavar(inner[0])
    return {int: "N", float: "X", Path: "PATH"}.get(annotation, "TEXT")


def parameter(field: dataclasses.Field[Any], annotation: Any, section: str | None) -> inspect.Parameter:
    """One command-line parameter from one dataclass field. Unset is None: defaults live in the dataclass."""
    required = field.default is dataclasses.MISSING
    text = field.metadata["help"]
    allowed = configs.choices_of(annotation)
    if allowed:
        text += f" [{', '.join(allowed)}]"
    if required:
        text += " [required]"
    elif field.default is not None and field.default != () and annotation is not bool:
        shown = configs.to_plain(field.default)
        text += f" (default: {','.join(map(str, shown)) if isinstance(shown, list) else shown})"
    kind: Any = bool if annotation in (bool, bool | None) else str
    if field.metadata["positional"]:
        name = configs.flag_name(field)
        declared: Any = typer.Argument(help=text, show_default=False, metavar=name, rich_help_panel=section)
        if typing.get_origin(annotation) is tuple:
            kind = list[str]
    elif kind is bool:
        flag = configs.flag_name(field)
        both = f"{flag}/--no-{flag[2:]}" if field.default is not False else flag
        text += " (default: on)" if field.default else ""
        declared = typer.Option(both, help=text, show_default=False, rich_help_panel=section)
    else:
        flag = configs.flag_name(field)
        declared = typer.Option(
            flag, help=text, show_default=False, metavar=metavar(annotation), rich_help_panel=section
        )
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, declared]
    )


def command(config: type[configs.Config], engine: str) -> Callable[..., None]:
    """A Typer callback whose signature is the dataclass; ``engine`` is ``module:function``."""
    hints = typing.get_type_hints(config)

    def call(**given: Any) -> None:
        context = given.pop("context")
        if context.invoked_subcommand is not None:
            if any(value is not None for value in given.values()):
                raise UsageError(f"options of {context.invoked_subcommand!r} belong behind its name, not before it")
            return
        file = given.pop("config_file")
        settings = configs.build(config, given, Path(file) if file else None)
        module, function = engine.split(":")
        getattr(importlib.import_module(f"facekit.engines.{module}"), function)(settings)

    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(parameter(f, hints[f.name], section) for f, section in configs.sections(config)),
        inspect.Parameter(
            "config_file",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Option("--config", help="TOML file or run.json with options; flags beat it", metavar="PATH"),
            ],
        ),
    ]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__doc__ = config.__doc__
    return call


def described(config: type[configs.Config]) -> Callable[[], None]:
    """A verb that nobody calls this time: its sentence for the list of commands, without options."""

    def call() -> None:
        raise AssertionError("built without its options")

    call.__doc__ = config.__doc__
    return call


def build_app(words: Collection[str] | None = None) -> typer.Typer:
    """The whole command line. Only verbs among the ``words`` of the call get their options: building all takes longer
    than a user should wait for ``--help``. None builds all.
    """

    def callback(name: str, config: type[configs.Config], engine: str) -> Callable[..., None]:
        return command(config, engine) if words is None or name in words else described(config)

    def add(group: typer.Typer, name: str, config: type[configs.Config], engine: str) -> None:
        group.command(name, cls=Verb, context_settings=WIDE)(callback(name, config, engine))

    def grouped(name: str, help: str, **bare: Any) -> typer.Typer:
        group = typer.Typer(cls=Group, help=help, rich_markup_mode=None, **bare)
        app.add_typer(group, name=name)
        return group

    app = typer.Typer(
        name="facekit",
        cls=Group,
        context_settings=WIDE,
        help="Train small face-recognition models from big ones, measure them honestly, ship them.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(root)
    add(app, "train", configs.TrainConfig, "train:run")
    add(app, "distill", configs.DistillConfig, "distill:run")
    add(app, "embed", configs.EmbedConfig, "embed:run")
    add(app, "export", configs.ExportConfig, "export:run")
    add(app, "profile", configs.ProfileConfig, "profile:run")
    add(app, "doctor", configs.DoctorConfig, "doctor:run")

    data = grouped("data", "Pack, check and make image data.", no_args_is_help=True)
    add(data, "pack", configs.PackConfig, "data:pack")
    add(data, "check", configs.CheckConfig, "data:check")
    add(data, "pairs", configs.PairsConfig, "pairs:run")
    add(data, "synth", configs.SynthConfig, "data:synth")
    add(data, "noise", configs.NoiseConfig, "noise:run")

    head = grouped("head", "Merge and slice margin heads of many GPUs.", no_args_is_help=True)
    add(head, "merge", configs.HeadMergeConfig, "head:merge_shards")
    add(head, "slice", configs.HeadSliceConfig, "head:slice_head")

    route = grouped("route-train", "Teach a student along its teacher's own training route.", no_args_is_help=True)
    add(route, "record", configs.RouteRecordConfig, "train:record")
    add(route, "plan", configs.RoutePlanConfig, "route_train:plan")
    add(route, "run", configs.RouteRunConfig, "route_train:run")
    add(route, "status", configs.RouteStatusConfig, "route_train:status")

    align = grouped("align-eval", "Measure a model on face benchmarks, raw and aligned.")
    align.callback(invoke_without_command=True)(callback("align-eval", configs.AlignEvalConfig, "align_eval:run"))
    add(align, "swap", configs.SwapConfig, "swap:run")
    add(align, "bank", configs.BankConfig, "bank:run")
    add(align, "fit-estimator", configs.FitEstimatorConfig, "fit_estimator:run")
    add(align, "fit-generator", configs.FitGeneratorConfig, "fit_generator:run")

    autoweight = grouped("autoweight", "Learn how much each training sample counts, and use it.", no_args_is_help=True)
    add(autoweight, "search", configs.PolicySearchConfig, "autoweight:search")
    add(autoweight, "apply", configs.PolicyApplyConfig, "autoweight:apply")
    add(autoweight, "compare", configs.WeightersConfig, "weighters:run")
    add(autoweight, "show", configs.PolicyShowConfig, "policy_show:run")
    add(autoweight, "audit", configs.AuditConfig, "audit:run")

    compress = grouped("compress", "Compress images with a learned codec.", no_args_is_help=True)
    add(compress, "train", configs.CompressTrainConfig, "compress_train:run")
    add(compress, "encode", configs.CompressEncodeConfig, "compress:encode")
    add(compress, "decode", configs.CompressDecodeConfig, "compress:decode")
    add(compress, "bench", configs.CompressBenchConfig, "compress_bench:run")
    add(compress, "info", configs.CompressInfoConfig, "compress_info:run")

    runs = grouped("runs", "Look through runs: list, show, compare.", no_args_is_help=True)
    add(runs, "list", configs.RunsListConfig, "runs:list_runs")
    add(runs, "show", configs.RunsShowConfig, "runs:show")
    add(runs, "compare", configs.RunsCompareConfig, "compare:run")
    return app


def show_version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        print(f"facekit {__version__}")
        raise typer.Exit()


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Train small face-recognition models from big ones, measure them honestly, ship them."""


def sentence(error: typer.TyperException) -> str:
    """The command-line parser's own refusals, in the form of ours; a group without a verb shows its help."""
    message = error.format_message()
    if message.startswith("Usage:"):
        return message
    if similar := getattr(error, "possibilities", None):
        message = f"{error.message}. Did you mean {similar[0]!r}?"
    context = getattr(error, "ctx", None)
    hint = f" See: {context.command_path} --help" if context else ""
    return f"facekit: {message}{'' if message.endswith(('.', '?')) else '.'}{hint}"


def main() -> None:
    """Entry point: explained errors become one sentence on stderr and their exit code."""
    try:
        # Not stand-alone: the parser then raises its refusals instead of printing three lines of usage.
        code = build_app(sys.argv[1:])(prog_name="facekit", standalone_mode=False)
        sys.stdout.flush()  # a reader that left is noticed here, not when the interpreter ends
        sys.exit(code if isinstance(code, int) else 0)
    except FacekitError as error:
        print(f"facekit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        print(sentence(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output left (| head): quiet, and no second error when Python flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
