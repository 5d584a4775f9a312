"""`push_to_hub`: uploads the files of `save_pretrained` to a repository of the hub, by `huggingface_hub`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any


class Pushable:
    """Base class of everything that can be saved and pushed to the hub."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> Any:
        """Upload the files of `save_pretrained` in one commit; create the repository if it does not exist.

        Args:
            repo_id: "owner/name", or "name" for the account of the token.
            commit_message: Message of the commit; by default "Upload" and the name of the class.
            commit_description: Text below the message.
            private: Whether a repository that is created now is private.
            token: Token of an account that may write; by default that of `hf auth login`.
            revision: Branch; main by default.
            create_pr: Open a pull request instead of committing to the branch.

        Returns:
            The `CommitInfo` of `huggingface_hub`, with the address of the commit.

        Raises:
            huggingface_hub.errors.HfHubHTTPError: The hub refuses.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self._save_for_hub(Path(folder))
            return api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )

    def _pushed(self, folder: str | os.PathLike[str], push: bool, options: dict[str, Any]) -> None:
        """Push if asked to, for `save_pretrained(folder, push_to_hub=True, ...)`; `repo_id` is by default the folder's
        name."""
        if push:
            self.push_to_hub(options.pop("repo_id", Path(folder).name), **options)
        elif options:
            raise TypeError(f"unknown option {', '.join(sorted(options))}; only push_to_hub=True takes some")

    def _save_for_hub(self, folder: Path) -> None:
        raise NotImplementedError
