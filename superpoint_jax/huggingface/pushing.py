"""`push_to_hub`: what `save_pretrained` writes, into a repository of the hub, by `huggingface_hub`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any


class Pushable:
    """What can be saved can be pushed."""

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
        """Make the repository if need be, and put the files of `save_pretrained` into it, in one commit.

        Args:
            repo_id: "owner/name"; or "name" for the account of the token.
            commit_message: "Upload" and the name of the class by default.
            commit_description: Below the message.
            private: Of a repository that is made now.
            token: Of an account that may write; that of `hf auth login` by default.
            revision: Branch; main by default.
            create_pr: A pull request in place of a commit.

        Returns:
            What `huggingface_hub` says of the commit: its address and more.

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
        """For `save_pretrained(folder, push_to_hub=True, ...)`, whose `repo_id` is the folder's name by default."""
        if push:
            self.push_to_hub(options.pop("repo_id", Path(folder).name), **options)
        elif options:
            raise TypeError(f"unknown option {', '.join(sorted(options))}; only push_to_hub=True takes some")

    def _save_for_hub(self, folder: Path) -> None:
        raise NotImplementedError
