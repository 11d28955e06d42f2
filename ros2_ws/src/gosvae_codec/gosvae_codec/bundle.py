"""Model bundles: the folder that training writes and both sides read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from .entropy import TokenCoder
from .errors import BundleError, GosvaeError
from .labels import LabelSpace
from .manifest import (
    ENCODER,
    FEATURES,
    MANIFEST,
    PRIOR,
    RECONSTRUCT,
    check_file,
    checked,
    fingerprint,
    inertia,
    int8,
    number,
    pair,
    read_manifest,
)
from .prior import Prior
from .sessions import Provider, Session, available
from .tasks import Semantic, Task, read_tasks


@dataclass(frozen=True, eq=False)
class ModelBundle:
    """A bundle whose files were checked; made by :meth:`load`."""

    path: Path
    name: str
    fingerprint: int
    """Of what both sides must agree on; see :func:`~gosvae_codec.manifest.fingerprint`."""
    input_size: tuple[int, int]
    """Height and width of the encoder's input in pixels."""
    grid: tuple[int, int]
    """Rows and columns of tokens."""
    levels: int
    """Residual levels of the encoder's tokens."""
    codes: int
    """Vectors in each level's codebook; the index `codes` itself marks an absent token."""
    tasks: Mapping[str, Task]
    """What the receiver makes of the tokens, by name."""
    manifest: dict[str, Any]
    """The whole manifest, with provenance and measured figures."""
    _sessions: dict[tuple[str, str, int, int], Session] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, path: str | Path) -> ModelBundle:
        """Read and check the bundle in the folder `path`.

        Raises:
            BundleError: the folder or a file is missing, truncated or altered, or the manifest has
                another format, is incomplete or inconsistent. The message says which.
        """
        path = Path(path)
        if not path.is_dir():
            raise BundleError(f"{path}: no such folder; give a model bundle like models/road")
        manifest = read_manifest(path)
        try:
            files = checked(manifest, "files", dict)
            missing = [name for name in (ENCODER, FEATURES, PRIOR) if name not in files]
            if missing:
                raise BundleError(f"files: {missing} not listed")
            _check_files(path, files)
            bundle = cls(
                path=path,
                name=checked(manifest, "name", str),
                input_size=pair(manifest, "input_size", 16384),
                grid=pair(manifest, "grid", 65535),
                levels=number(manifest, "levels", 1, 255),
                codes=number(manifest, "codes", 2, 65535),
                tasks=read_tasks(manifest),
                manifest=manifest,
                fingerprint=fingerprint({**manifest, "inertia": inertia(manifest)}),
            )
            for task in bundle.tasks.values():
                _check_files(path, task.record["files"])
        except GosvaeError as error:
            raise BundleError(f"{path / MANIFEST}: {error}") from error
        return bundle

    @cached_property
    def coder(self) -> TokenCoder:
        """The entropy coder of the bundle's tokens, created once.

        Raises:
            BundleError: ``prior.npz`` is not a valid prior for this bundle's tokens.
        """
        prior = Prior.load(self.path / PRIOR, self.levels, self.codes, self.grid)
        return TokenCoder(prior, self.codes, self.grid)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Records of all files, those of the tasks too, by name."""
        files = dict(self.manifest["files"])
        for task in self.tasks.values():
            files |= task.record["files"]
        return files

    @property
    def semantic(self) -> Semantic:
        """The task that makes the bundle's masks, the first of its kind.

        Raises:
            BundleError: there is none.
        """
        for task in self.tasks.values():
            if isinstance(task, Semantic):
                return task
        raise BundleError(f"{self.path}: it makes no masks, only: {', '.join(self.tasks)}")

    @property
    def labels(self) -> LabelSpace:
        """What the bundle's masks hold.

        Raises:
            BundleError: it makes no masks.
        """
        return self.semantic.labels

    @property
    def reconstructs(self) -> bool:
        """Whether the tokens can also be decoded to a picture; see :class:`Reconstructor`."""
        return RECONSTRUCT in self.manifest["files"]

    def choose(self, names: Iterable[str] | None) -> dict[str, Task]:
        """Return the tasks called `names`, or all for None, in the bundle's order.

        Raises:
            BundleError: it has no such task; the message lists those that it has.
        """
        if names is None:
            return dict(self.tasks)
        wanted = set(names)
        if unknown := sorted(wanted - set(self.tasks)):
            raise BundleError(
                f"{self.path}: it has no task {', '.join(unknown)}, only: {', '.join(self.tasks)}"
            )
        return {name: task for name, task in self.tasks.items() if name in wanted}

    def session(
        self, name: str, providers: Sequence[Provider], threads: int, batch: int = 1
    ) -> Session:
        """Return the session of one network, created once for each combination of arguments.

        On the CPU it runs the network's 8-bit version if the bundle has one.

        Args:
            name: a file, as ``encoder.onnx``, ``features.onnx`` or ``tasks/semantic.onnx``.
            providers: most wanted first; see :class:`~gosvae_codec.sessions.Session`.
            threads: threads of one inference on the CPU.
            batch: largest number of frames in one inference, for which engines are prepared.

        Raises:
            ProviderError, BundleError: as Session does; also if the bundle has no such network, or
                the graph contradicts the manifest.
        """
        key = (name, repr(providers), threads, batch)
        if key not in self._sessions:
            files = self.files
            if name not in files:
                raise BundleError(f"{self.path}: it has no {name}, only: {', '.join(files)}")
            on_cpu = available(providers)[0] == "cpu"
            file = int8(name) if on_cpu and int8(name) in files else name
            session = Session(self.path / file, providers, threads)
            heads = {task.file: task for task in self.tasks.values()}
            if name in heads:
                self._open_head(heads[name], session, providers, threads, batch)
            else:
                self._open(name, session, batch)
            self._sessions[key] = session
        return self._sessions[key]

    def _open(self, name: str, session: Session, batch: int) -> None:
        """Check a network that is not a head, and warm it up."""
        pixels, tokens = [*self.input_size, 3], [self.levels, *self.grid]
        taken = [pixels, tokens] if name == ENCODER else [tokens]
        self._expect(name, "takes", [each[1:] for each in session.input_shapes], taken)
        made = session.outputs[0][2][1:]
        if name == FEATURES:
            self._expect(name, "makes dimensions", [len(made)], [3])
        else:
            self._expect(name, "makes", made, tokens if name == ENCODER else pixels)
        # The first inference is slow, and fails if the graph cannot run.
        for size in sorted({1, batch}):
            session.warm_up(*session.zeros(*([size, *shape] for shape in taken)))

    def _open_head(
        self, task: Task, head: Session, providers: Sequence[Provider], threads: int, batch: int
    ) -> None:
        """Check a head, and warm it up on what the features' network makes of zeros."""
        task.check(head)
        features = self.session(FEATURES, providers, threads, batch)
        for size in sorted({1, batch}):
            tokens = features.zeros([size, self.levels, *self.grid])
            head.warm_up(*features.compute(*tokens))

    def expert_path(self, task: Task | None = None) -> Path:
        """Return the file of the expert that a task imitates, or the masks for None.

        Bundles share experts by hash.

        Raises:
            BundleError: the task names none.
        """
        expert = checked((task or self.semantic).record, "expert", dict)
        sha256 = str(checked(expert, "sha256", str))
        return self.path.resolve().parent / "experts" / f"{sha256[:16]}.onnx"

    def expert_session(self, task: Task, providers: Sequence[Provider], threads: int) -> Session:
        """Return the session of a task's expert, created once for each choice.

        Raises:
            BundleError: the task names no expert, or its file is missing, not the one that the
                manifest names, or makes something else than the task's kind.
            ProviderError: as Session does.
        """
        path = self.expert_path(task)
        key = (str(path), repr(providers), threads, 1)
        if key not in self._sessions:
            expert = task.record["expert"]
            check_file(path, str(expert["sha256"]), expert.get("bytes"))
            session = Session(path, providers, threads)
            # Experts may take frames of another size than the encoder, or of any.
            taken = [each[3:] for each in session.input_shapes]
            self._expect(path.name, "takes channels", taken, [[3]])
            task.check(session)
            self._sessions[key] = session
        return self._sessions[key]

    def _expect(self, name: str, verb: str, found: list[Any], wanted: list[Any]) -> None:
        if found != wanted:
            raise BundleError(
                f"{self.path}: {name} {verb} {found}, the manifest says {wanted}: "
                "export the bundle again"
            )


def _check_files(path: Path, files: Mapping[Any, Any]) -> None:
    for name, record in files.items():
        if not isinstance(name, str) or not _is_inside(PurePosixPath(name)):
            raise BundleError(f"files: {name!r} is no name of a file in the bundle")
        check_file(path / name, checked(record, "sha256", str), record.get("bytes"))


def _is_inside(name: PurePosixPath) -> bool:
    """Return whether a file lies in the bundle's folder, at most one folder below."""
    return not name.is_absolute() and 1 <= len(name.parts) <= 2 and ".." not in name.parts
