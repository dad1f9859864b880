// SPDX-License-Identifier: Apache-2.0
//
// As much of the ELF64 format as it takes to list what a shared library exports (elf(5)).

import { readFileSync } from "node:fs";

const SHT_DYNSYM = 11;
const STT_FUNC = 2;

/** Names of the functions that a little-endian ELF64 library defines and exports. */
export function exportedFunctions(path: string): string[] {
  const file = readFileSync(path);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (view.getUint32(0) !== 0x7f454c46) throw new Error(`${path} is not an ELF file`);
  const u64 = (offset: number) => Number(view.getBigUint64(offset, true));
  const sections = u64(40);
  const sectionBytes = view.getUint16(58, true);
  const count = view.getUint16(60, true);
  const section = (index: number) => {
    const at = sections + index * sectionBytes;
    return {
      type: view.getUint32(at + 4, true),
      offset: u64(at + 24),
      size: u64(at + 32),
      link: view.getUint32(at + 40, true),
    };
  };
  const names: string[] = [];
  for (let index = 0; index < count; index++) {
    const symbols = section(index);
    if (symbols.type !== SHT_DYNSYM) continue;
    const strings = section(symbols.link);
    for (let at = symbols.offset; at < symbols.offset + symbols.size; at += 24) {
      const defined = view.getUint16(at + 6, true) !== 0;
      if (!defined || (view.getUint8(at + 4) & 15) !== STT_FUNC) continue;
      const start = strings.offset + view.getUint32(at, true);
      names.push(file.toString("latin1", start, file.indexOf(0, start)));
    }
  }
  return names;
}
