// The published package leaves out the marker that its WASM glue is an ES module. Bundlers do not need it, Node does.
import { writeFileSync } from 'node:fs'

for (const variant of ['default', 'lite']) {
  writeFileSync(
    new URL(`node_modules/@synckit-js/sdk/wasm/${variant}/package.json`, import.meta.url),
    '{"type":"module"}\n',
  )
}
