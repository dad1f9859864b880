// SPDX-License-Identifier: Apache-2.0

import type { CommandDescription } from "../description.ts";

export const SHELLS = ["bash", "zsh", "fish"] as const;

/** lmshm completion. */
export const COMPLETION = {
  name: "completion",
  summary: "print what makes a shell complete commands and options",
  usage: "bash|zsh|fish",
  operands: SHELLS,
  about: ["Prints a script for the shell to read."],
  options: [],
  examples: [
    {
      run: "lmshm completion bash > /etc/bash_completion.d/lmshm",
      does: "For all users of bash (with the package bash-completion):",
    },
    { run: "source <(lmshm completion bash)", does: "For this shell alone:" },
    {
      run: "lmshm completion zsh > /usr/local/share/zsh/site-functions/_lmshm",
      does: "For all users of zsh:",
    },
    {
      run: "lmshm completion fish > ~/.config/fish/completions/lmshm.fish",
      does: "For one user of fish:",
    },
  ],
  status: { 0: "printed" },
} as const satisfies CommandDescription;

/** lmshm man. */
export const MAN = {
  name: "man",
  summary: "print the manual page",
  usage: "",
  about: ["Prints the manual page of all commands as roff, for man to show or to be installed."],
  options: [],
  examples: [
    { run: "lmshm man | man -l -", does: "Read it:" },
    { run: "lmshm man > /usr/local/share/man/man1/lmshm.1", does: "Install it:" },
  ],
  status: { 0: "printed" },
} as const satisfies CommandDescription;
