# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Weight files of Hugging Face hub repositories: from the local cache, or downloaded into it."""

import json
import re
from pathlib import Path
from typing import Any

from vggt_ros.errors import UserError

# In order of preference; the last two are file names of the other checkpoints of the family.
FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model.pt",
    "vggt_1B_commercial.pt",
    "model_tracker_fixed_e20.pt",
)


NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w.][\w./-]*))?")


def is_repository(source: str) -> bool:
    """Whether `source` has the form owner/name, or owner/name@revision."""
    return NAME.fullmatch(source) is not None


def fetch(repository: str, cache_dir: str | Path | None = None) -> Path:
    """The weight file of a repository, from the cache or downloaded with a progress bar.

    A branch, tag or commit may follow the name: owner/name@revision.  An index of shards comes
    with its shards beside it.  The client's own HF_HUB_OFFLINE, HF_HOME (where no `cache_dir` is
    given) and HF_TOKEN apply.
    Raises UserError, in one sentence, for whatever prevents it.
    """
    unreachable: Exception | None = None
    for name in FILES:
        try:
            path = _download(repository, name, cache_dir, only_cached=unreachable is not None)
        except _Unreachable as fault:
            unreachable = unreachable or fault
            continue
        if path is not None:
            if path.suffix == ".json":
                for shard in sorted(set(json.loads(path.read_text())["weight_map"].values())):
                    _download(repository, shard, cache_dir, only_cached=False)
            return path
    if unreachable:
        raise UserError(str(unreachable)) from unreachable.__cause__
    raise UserError(f"{repository} holds none of {', '.join(FILES)}: it is not a VGGT checkpoint")


class _Unreachable(Exception):
    """The file is not in the cache, and cannot be downloaded now."""


def _download(
    source: str, name: str, cache_dir: str | Path | None, *, only_cached: bool
) -> Path | None:
    """The file; None where the repository has none of this name."""
    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    repository, _, revision = source.partition("@")
    wanted: dict[str, Any] = {"revision": revision} if revision else {}
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    try:
        path = hub.hf_hub_download(
            repository, name, cache_dir=cache, local_files_only=only_cached, **wanted
        )
        return Path(path)
    except errors.RevisionNotFoundError as fault:
        raise UserError(
            f"{repository} has no branch, tag or commit {revision!r}: "
            f"see https://huggingface.co/{repository}/commits/main"
        ) from fault
    except errors.GatedRepoError as fault:
        raise UserError(
            f"{repository} is gated: accept its licence at https://huggingface.co/{repository}, "
            "then run `hf auth login` (or set HF_TOKEN) and try again"
        ) from fault
    except errors.RepositoryNotFoundError as fault:
        raise UserError(
            f"the hub has no repository {repository}, or it is private and you are not logged in:"
            " check the name, or run `hf auth login`"
        ) from fault
    except errors.LocalEntryNotFoundError as fault:
        why = (
            "HF_HUB_OFFLINE is set; unset it to download"
            if constants.is_offline_mode()
            else "the hub cannot be reached; check the network, or give a local file"
        )
        raise _Unreachable(f"{repository} is not in {cache}, and {why}") from fault
    except errors.EntryNotFoundError:
        return None
    except errors.HfHubHTTPError as fault:
        raise UserError(f"the hub refused {repository}: {_first_line(fault)}") from fault
    except PermissionError as fault:
        raise UserError(
            f"the cache {cache} cannot be written ({fault.filename}); "
            "set HF_HOME, or cache_dir, to a directory of your own"
        ) from fault
    except Exception as fault:  # a full disk, or any error of the client's transport
        raise UserError(f"downloading {repository} failed: {_first_line(fault)}") from fault


def _first_line(fault: Exception) -> str:
    return next(iter(str(fault).splitlines()), "") or type(fault).__name__
