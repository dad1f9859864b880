// SPDX-License-Identifier: Apache-2.0
//
// How the address of a listening worker is written: "host:port", "[::1]:port", "unix:/path" or
// "/path".

export type WorkerAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

/** sun_path of sockaddr_un (unix(7)), less its NUL. */
const MAX_SOCKET_PATH_BYTES = 107;

function refuse(text: string, fault: string): never {
  throw new RangeError(
    `worker address ${JSON.stringify(text)} ${fault}; it is "host:port", "[::1]:port", ` +
      `"unix:/path/of/socket" or "/path/of/socket"`,
  );
}

/** @throws {RangeError} naming what is wrong and the accepted forms. */
export function parseWorkerAddress(text: string): WorkerAddress {
  if (typeof text !== "string") throw new TypeError(`worker address must be a string, got ${text}`);
  if (text.startsWith("/") || text.startsWith("unix:")) {
    const path = text.startsWith("unix:") ? text.slice("unix:".length) : text;
    if (!path.startsWith("/")) refuse(text, "has a path that is not absolute");
    if (path.includes("\0")) refuse(text, "contains a NUL");
    const bytes = new TextEncoder().encode(path).length;
    if (bytes > MAX_SOCKET_PATH_BYTES) {
      refuse(text, `has a path of ${bytes} bytes, more than the ${MAX_SOCKET_PATH_BYTES} allowed`);
    }
    return { kind: "unix", path };
  }
  const parts = /^(?:\[([0-9A-Fa-f:.%]+)\]|([^:\[\]\s]+)):([0-9]{1,5})$/.exec(text);
  if (!parts) {
    refuse(text, /:/.test(text) ? "cannot be understood" : "has no port");
  }
  const port = Number(parts[3]);
  if (port < 1 || port > 65_535) refuse(text, `has port ${port}, which is not within 1 to 65535`);
  return { kind: "tcp", host: parts[1] ?? parts[2]!, port };
}

/** The address as parseWorkerAddress() accepts it. */
export function formatWorkerAddress(address: WorkerAddress): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `${host}:${address.port}`;
}
