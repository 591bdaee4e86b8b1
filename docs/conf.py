"""How Sphinx builds the pages: `make docs`."""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Iterable
from importlib import metadata
from types import ModuleType

import attrs
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

from temporal_patching.policy._verbs import LEGAL, PHASES

project = "temporal-patching"
author = "The temporal-patching authors"
version = release = metadata.version("temporal-patching")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "temporal-patching"
html_show_copyright = False
html_theme_options = {"source_repository": "", "navigation_with_keys": True}

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "substitution"]
# Console blocks hold placeholders that no lexer knows; how they look is all that is lost.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Every reference to something of ours must lead somewhere. The SDK's and Python's own pages are
# elsewhere, and a build must not need the network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!temporal_patching\b).*"),
    # Type variables, and private bases that a reader needs not know.
    (r"py:.*", r"temporal_patching\.(.*\.)?(\w*T\d?|S)"),
    (r"py:.*", r"temporal_patching\.(policy\._rules\.Checked|workflow\._template\.\w+)"),
    (r"py:.*", r"temporal_patching\.models\.(_orders\.\w+|_steering\.(Repair)?Order)"),
    # Where a parked host stands: opaque, only handed on.
    (r"py:.*", r"temporal_patching\.policy\._host\.Procedure"),
]


def _verbs() -> str:
    """Which verb is legal in which phase, from the code."""
    rows = [["verb", *PHASES], ["---"] * (len(PHASES) + 1)]
    for verb, phases in LEGAL.items():
        rows.append([f"`{verb}`", *("✓" if phase in phases else " " for phase in PHASES)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


myst_substitutions = {"verbs": _verbs()}

ROOMS = (
    "exceptions",
    "policy",
    "models",
    "workflow",
    "activity",
    "client",
    "worker",
    "testing",
    "contrib.ssh",
)


def _modules() -> Iterable[ModuleType]:
    for room in ROOMS:
        yield importlib.import_module(f"{project.replace('-', '_')}.{room}")


def _public_names() -> dict[str, str]:
    """The public name of everything that is defined in a private module."""
    public: dict[str, str] = {}
    for module in _modules():
        for name in module.__all__:
            where = getattr(getattr(module, name), "__module__", None)
            if isinstance(where, str) and where.startswith("temporal_patching."):
                # HostState and Outcome are in two rooms; the first one has them.
                public.setdefault(f"{where}.{name}", f"{module.__name__}.{name}")
    return public


def _aliases() -> dict[str, list[str]]:
    """What is said below ``InFlight = Literal[…]`` and the like, by public name."""
    said: dict[str, list[str]] = {}
    for module in _modules():
        parts = {
            getattr(member, "__module__", None)
            for name, member in vars(module).items()
            if name in module.__all__
        }
        for part in sorted({module.__name__, *(each for each in parts if isinstance(each, str))}):
            if part.startswith("temporal_patching."):
                comments = ModuleAnalyzer.for_module(part).find_attr_docs()
                for (owner, name), lines in comments.items():
                    if not owner and name in module.__all__:
                        said[f"{module.__name__}.{name}"] = lines
    return said


PUBLIC = _public_names()
ALIASES = _aliases()

_SECTION = re.compile(r"^(Args|Attributes):$")
_ENTRY = re.compile(r"^    (\w+(?:, \w+)*): (.*)$")


def _fields(owner: type) -> set[str]:
    if not attrs.has(owner):
        return set()
    return {field.name for field in attrs.fields(owner) if not field.name.startswith("_")}


def _field_texts(owner: type) -> dict[str, list[str]]:
    """What a class's docstring says of each of its fields."""
    texts: dict[str, list[str]] = {}
    inside = False
    current: list[str] = []
    for line in inspect.cleandoc(owner.__doc__ or "").splitlines():
        if _SECTION.match(line):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and (entry := _ENTRY.match(line)):
            current = [entry[2]]
            texts.update(dict.fromkeys(entry[1].split(", "), current))
        elif inside and line.strip():
            current.append(line.strip())
    return texts


def _without_field_texts(lines: list[str], fields: set[str]) -> list[str]:
    """A class's docstring without what stands at its fields."""
    kept: list[str] = []
    inside = drop = False
    for line in lines:
        if _SECTION.match(line):
            inside, drop = True, True
            heading = line
            continue
        if line and not line.startswith(" "):
            inside = drop = False
        elif inside and (entry := _ENTRY.match(line)):
            drop = set(entry[1].split(", ")) <= fields
            if not drop and heading:
                kept.append(heading)
                heading = ""
        if not (inside and drop):
            kept.append(line)
    return kept


def describe_class(
    app: Sphinx, what: str, name: str, member: object, options: object, lines: list[str]
) -> None:
    """Takes out of a class's docstring what ``describe_field`` puts at the fields themselves."""
    if what == "class" and isinstance(member, type) and (fields := _fields(member)):
        lines[:] = _without_field_texts(lines, fields)
    if what in ("attribute", "property") and lines:
        # Napoleon takes what stands before a colon in the first line for a type.
        lines[0] = lines[0].replace(": ", " – ")


def describe_field(
    app: Sphinx, what: str, name: str, member: object, options: object, lines: list[str]
) -> None:
    """Gives a field what its class's docstring says of it, and an alias what stands below it."""
    if what not in ("attribute", "property", "data"):
        return
    text = ALIASES.get(name, [])
    owner_name, _, field = name.rpartition(".")
    module_name, _, class_name = owner_name.rpartition(".")
    if class_name[:1].isupper():
        for each in getattr(importlib.import_module(module_name), class_name).__mro__:
            text = text or _field_texts(each).get(field, [])
    known = "\n".join(lines).strip()
    if text and (not known or what == "data"):
        lines[:] = text


def describe_defaults(
    app: Sphinx,
    what: str,
    name: str,
    member: object,
    options: object,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None] | None:
    """Shows what an attrs factory makes, not that there is one."""
    if what != "class" or not isinstance(member, type) or signature is None:
        return None
    if member.__module__.startswith("temporal_patching.workflow."):
        return "", None  # Temporal makes workflows, nobody calls their classes
    for field in attrs.fields(member) if attrs.has(member) else ():
        factory = field.default
        if isinstance(factory, attrs.Factory):  # type: ignore[arg-type]
            made = None if factory.takes_self else factory.factory()
            plain = made is not None and made == type(made)()
            shown = "..." if not plain else "{}" if made == {} else f"{type(made).__name__}()"
            signature = re.sub(rf"(\b{field.name}: [^=]*=) NOTHING", rf"\1 {shown}", signature)
    return signature, returns


def hide_private_bases(
    app: Sphinx, name: str, member: type, options: object, bases: list[type | str]
) -> None:
    """Leaves out bases that a reader cannot name."""
    bases[:] = [
        base
        for base in bases
        if getattr(typing.get_origin(base) or base, "__name__", "")
        not in ("Checked", "TemplateWorkflow", "Generic")
    ]


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Leads a reference to ``temporal_patching.models._task.HostTask`` to where it is documented."""
    target = PUBLIC.get(node.get("reftarget", ""))
    if node.get("refdomain") != "py" or target is None:
        return None
    domain = env.domains.python_domain
    found = domain.find_obj(env, "", "", target, None)
    if not found:
        return None
    entry = found[0][1]
    uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
    reference = nodes.reference("", "", internal=True, refuri=f"{uri}#{entry.node_id}")
    reference += content
    return reference


def link_files(app: Sphinx, docname: str, source: list[str]) -> None:
    """Leads a link to a file of the repository to a copy of it: the pages are built without it."""
    source[0] = re.sub(r"\]\(((?:\.\./)+examples/[^)#]+)\)", r"](path:\1)", source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    # Napoleon, which reads the sections of docstrings, has the priority 500.
    app.connect("autodoc-process-docstring", describe_class, priority=400)
    app.connect("autodoc-process-docstring", describe_field, priority=600)
    app.connect("autodoc-process-signature", describe_defaults)
    app.connect("autodoc-process-bases", hide_private_bases)
    app.connect("missing-reference", resolve)
    app.connect("source-read", link_files)
