// SPDX-License-Identifier: Apache-2.0

import { type CommandDescription, JSON_OPTION, type OptionDescription } from "../description.ts";

const STORE =
  "STORE is a directory, for which a worker is started; DIR@ADDRESS: a directory of a running " +
  "worker, as that one sees it (relative: below its root; empty: the root), whose address is " +
  "host:port, unix:/path or /path; or a URL: redis://host:6379, redis+unix:///path, " +
  "redis+cluster://host:7000, s3://bucket/prefix?endpoint=http://host:9000, tcp://host:port of a " +
  "running worker.";
const PATTERNS =
  "A KEY with *, ? or [...] is a pattern: * stands for any characters, / included, ? for one, and " +
  "a backslash takes the meaning of what follows away.";

const SECRET = {
  name: "secret-file",
  value: "FILE",
  completes: "file",
  text: "the secret of TCP workers (default $LMSHM_SECRET)",
} as const satisfies OptionDescription;
const STORE_SECRET = {
  name: "store-secret-file",
  value: "FILE",
  completes: "file",
  text: "what an engine is logged in to with (default $LMSHM_STORE_SECRET, or $AWS_ACCESS_KEY_ID " +
    "and $AWS_SECRET_ACCESS_KEY); none: without a login",
} as const satisfies OptionDescription;
const TO_SECRET = {
  ...SECRET,
  name: "to-secret-file",
  text: "that of TO, where it is another than FROM's",
} as const satisfies OptionDescription;
const FROM_STORE_SECRET = {
  ...STORE_SECRET,
  text: "what FROM is logged in to with where it is an engine, or else TO (default " +
    "$LMSHM_STORE_SECRET, or $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY); none: without a login",
} as const satisfies OptionDescription;
const TO_STORE_SECRET = {
  ...STORE_SECRET,
  name: "to-store-secret-file",
  text: "the same for TO, where both are engines (default: the variables, or what FROM has where " +
    "both are on one server)",
} as const satisfies OptionDescription;
const LITERAL = {
  name: "literal",
  text: "keys are no patterns",
} as const satisfies OptionDescription;
const IN_FLIGHT = {
  name: "in-flight",
  value: "N",
  text: "objects at a time, 1 to 64 (default 4)",
} as const satisfies OptionDescription;
const MEMORY = {
  name: "memory",
  value: "SIZE",
  text: "shared memory that may be used, and so the largest object (default 1GiB; 64MiB are used " +
    "where objects are no larger)",
} as const satisfies OptionDescription;

const KEY_MEMBER = "of the object";
const FAILED_MEMBERS = {
  ok: "it was done; false: see code and error",
  code: "of a failure, such as ENOENT or ENOSPC; MISSING: there is no such object",
  error: "the failure in words",
};

/** lmshm put. */
export const PUT = {
  name: "put",
  summary: "store files as objects",
  usage: "[OPTION]... STORE FILE...",
  operands: "file",
  about: [
    "Stores each FILE under its name, without its directory, or under --key. - is stdin. What is " +
    "there is replaced, whole or not at all; with --if-absent it stays as it is, whatever it is, and the " +
    "FILE is skipped.",
    STORE + " Put makes a directory that is missing.",
  ],
  options: [
    { name: "key", value: "KEY", text: "the key of the only FILE" },
    { name: "prefix", value: "TEXT", text: "goes before every key" },
    {
      name: "recursive",
      short: "r",
      text: "of a FILE that is a directory take all files; their keys are their paths below it",
    },
    {
      name: "metadata",
      value: "NAME=TEXT",
      repeat: true,
      text: "is kept with the objects; may be repeated",
    },
    { name: "if-absent", text: "store only what is not there yet; the rest is skipped" },
    IN_FLIGHT,
    MEMORY,
    SECRET,
    STORE_SECRET,
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm put /data/kv chunk.bin", does: "One file, as the object chunk.bin:" },
    {
      run: "tar c models | lmshm put /data/kv --key models.tar -",
      does: "What a program writes:",
    },
    {
      run: "lmshm put -r --prefix run7/ kv@unix:/run/lmshm.sock results",
      does: "All files of a directory, through a running worker:",
    },
    {
      run: "lmshm put -r --if-absent redis://10.0.0.7 chunks",
      does: "What is named by a hash of its content is there, or is not; nothing is stored twice:",
    },
  ],
  status: {
    0: "all files are stored, or were there (--if-absent)",
    1: "one was missing, or could not be stored",
  },
  json: {
    form: "lines",
    members: {
      key: KEY_MEMBER,
      file: "where it came from; -: stdin",
      ...FAILED_MEMBERS,
      byteLength: "of the object; not of what was skipped",
      skipped: "it was there, and stays as it is (--if-absent)",
      milliseconds: "that it took",
    },
  },
} as const satisfies CommandDescription;

/** lmshm get. */
export const GET = {
  name: "get",
  summary: "write objects to files or stdout",
  usage: "[OPTION]... STORE KEY...",
  operands: "any",
  about: [
    "Writes each object to a file of its key's name, with a / in the key as a directory. A file " +
    "appears when it is complete. Every byte is checked against the checksum that was stored.",
    STORE,
    PATTERNS,
  ],
  options: [
    {
      name: "output",
      short: "o",
      value: "PATH",
      completes: "file",
      text: "the directory for the files (default .); of a single key without a pattern also the " +
        "file; - is stdout, one object after the other",
    },
    LITERAL,
    IN_FLIGHT,
    MEMORY,
    SECRET,
    STORE_SECRET,
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm get /data/kv chunk.bin -o /tmp/chunk.bin", does: "One object, to a file:" },
    { run: "lmshm get /data/kv models.tar -o - | tar t", does: "To a program:" },
    {
      run: "lmshm get kv@unix:/run/lmshm.sock 'run7/*' -o results",
      does: "All that begin so, from a running worker:",
    },
  ],
  status: { 0: "all objects were written", 1: "one was missing, or could not be written" },
  json: {
    form: "lines",
    members: {
      key: KEY_MEMBER,
      file: "where it was written",
      ...FAILED_MEMBERS,
      byteLength: "of the object",
      milliseconds: "that it took",
    },
  },
} as const satisfies CommandDescription;

/** lmshm ls. */
export const LS = {
  name: "ls",
  summary: "list the objects of a store",
  usage: "[OPTION]... STORE [KEY]...",
  operands: "any",
  about: [
    "Lists all keys, or those that match, in no order, as they are found: sort sorts them.",
    STORE,
    PATTERNS,
  ],
  options: [
    { name: "long", short: "l", text: "with the size, and when each was stored (UTC)" },
    LITERAL,
    SECRET,
    STORE_SECRET,
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm ls /data/kv | wc -l", does: "How many are there?" },
    { run: "lmshm ls -l /data/kv 'llama/*@half'", does: "What is kept of one model?" },
  ],
  status: { 0: "listed", 1: "what was asked for is not there, or could not be listed" },
  json: {
    form: "lines",
    members: {
      key: KEY_MEMBER,
      ...FAILED_MEMBERS,
      byteLength: "with --long, as the next three",
      mtimeMs: "when it was stored, in milliseconds since 1970; 0: not known",
      diskBytes: "what it takes of the disk",
      crc32c: "of its bytes; null: none is kept",
      metadata: "what is kept with it",
    },
  },
} as const satisfies CommandDescription;

/** lmshm stat. */
export const STAT = {
  name: "stat",
  summary: "show what is known of objects",
  usage: "[OPTION]... STORE KEY...",
  operands: "any",
  about: [
    "Shows size, time, checksum and metadata, without reading the objects.",
    STORE,
    PATTERNS,
  ],
  options: [LITERAL, SECRET, STORE_SECRET, JSON_OPTION],
  examples: [{ run: "lmshm stat /data/kv chunk.bin", does: "What is this?" }],
  status: { 0: "all are there", 1: "one is missing, or could not be looked at" },
  json: {
    form: "lines",
    members: {
      key: KEY_MEMBER,
      ...FAILED_MEMBERS,
      byteLength: "of the object",
      mtimeMs: "when it was stored, in milliseconds since 1970; 0: not known",
      diskBytes: "what it takes of the disk",
      crc32c: "of its bytes; null: none is kept",
      metadata: "what is kept with it",
    },
  },
} as const satisfies CommandDescription;

/** lmshm rm. */
export const RM = {
  name: "rm",
  summary: "remove objects",
  usage: "[OPTION]... STORE KEY...",
  operands: "any",
  about: [
    "Removes objects; those that a pattern finds with a request for up to 128 of them. Where a request " +
    "fails in the middle because the store went away, which of its objects are removed is not known; " +
    "the same command again removes the rest.",
    STORE,
    PATTERNS,
  ],
  options: [
    { name: "dry-run", short: "n", text: "only tell what would be removed" },
    LITERAL,
    { ...IN_FLIGHT, text: "requests at a time, 1 to 64 (default 4)" },
    SECRET,
    STORE_SECRET,
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm rm -n /data/kv 'run7/*'", does: "What would go?" },
    { run: "lmshm rm /data/kv 'run7/*'", does: "Away with it:" },
  ],
  status: { 0: "all are removed", 1: "one was missing, or could not be removed" },
  json: {
    form: "lines",
    members: {
      key: KEY_MEMBER,
      ...FAILED_MEMBERS,
      removed: "false: it was only looked at (--dry-run), or gone already",
      milliseconds: "that the request took",
    },
  },
} as const satisfies CommandDescription;

/** lmshm cp. */
export const CP = {
  name: "cp",
  summary: "copy objects from one store to another",
  usage: "[OPTION]... FROM TO [KEY]...",
  operands: "any",
  about: [
    "Copies all objects, or those that match, with their metadata, and checks every byte on the way. " +
    "What TO has is skipped, so that a copy that was interrupted is taken up by giving the same command " +
    "again. Compared are the length, and the checksum and the metadata where both keep them; where one " +
    "keeps no checksum, the copy must not be older, if both tell times.",
    "Where TO has no place for metadata, the bytes are copied without, and it is said once what is lost.",
    "FROM and TO are stores. " + STORE + " A directory TO is made where it is missing.",
    "A password goes to its own server alone: --store-secret-file is FROM's, --to-store-secret-file " +
    "TO's. Keys of one server, and stores of which only one is an engine, need only the first. " +
    "$LMSHM_STORE_SECRET is not taken for two Redis servers.",
    PATTERNS,
  ],
  options: [
    { name: "force", short: "f", text: "copy also what is there" },
    LITERAL,
    IN_FLIGHT,
    MEMORY,
    SECRET,
    TO_SECRET,
    FROM_STORE_SECRET,
    TO_STORE_SECRET,
    JSON_OPTION,
  ],
  examples: [
    { run: "lmshm cp /data/kv /backup/kv", does: "Everything, to another disk:" },
    {
      run: "lmshm cp /data/kv kv@127.0.0.1:9800 'llama/*' --secret-file /etc/lmshm.secret",
      does: "What is kept of one model, to another worker that shares this machine's memory:",
    },
    {
      run: "lmshm cp redis://old redis://new --store-secret-file old.secret " +
        "--to-store-secret-file new.secret",
      does: "To another server, with a password of its own:",
    },
  ],
  status: { 0: "all are there", 1: "one was missing, or could not be copied" },
  json: {
    form: "lines",
    members: {
      key: KEY_MEMBER,
      ...FAILED_MEMBERS,
      byteLength: "of the object",
      skipped: "it was there",
      compared: "of what was skipped, what is equal: length, checksum, metadata, time",
      lost: "names of its metadata that TO has no place for",
      milliseconds: "that it took",
    },
  },
} as const satisfies CommandDescription;
