// SPDX-License-Identifier: Apache-2.0
//
// What LMCache's remote_url of an engine means here: the same server, and the layout that its connector of
// that name has. tests/lmcache/stores_test.ts has the same with LMCache itself.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createConfig, loadConfig } from "../src/config/mod.ts";
import { optionsFrom } from "../src/connector/shm_file_sources.ts";
import { ShmError } from "../src/errors.ts";

type Extra = Record<string, unknown>;

function load(top: Record<string, unknown>, extra_config: Extra = {}) {
  return loadConfig({ text: JSON.stringify({ ...top, extra_config }), environment: null });
}

/** The URL that the connector opens. */
function storeOf(remote_url: string, extra: Extra = {}): string | undefined {
  return optionsFrom(load({ remote_url }, extra).config).options.store;
}

function refusal(remote_url: string, extra: Extra = {}): string {
  try {
    load({ remote_url }, extra);
  } catch (error) {
    assert.ok(error instanceof ShmError && error.code === "ECONFIG", String(error));
    return error.message;
  }
  return assert.fail(`${remote_url} is accepted`);
}

test("remote_url of an engine has the layout of LMCache's connector of that name", () => {
  for (
    const [url, wanted] of [
      ["redis://h:6379", "redis://h:6379?layout=lmcache-redis"],
      ["redis://u:p%40@h/2", "redis://u:p%40@h/2?layout=lmcache-redis"],
      ["redis://h?ttl=60", "redis://h?ttl=60&layout=lmcache-redis"],
      ["redis+unix:///run/r", "redis+unix:///run/r?layout=lmcache-redis"],
      ["redis-cluster://a:1, b:2", "redis+cluster://a:1,b:2?layout=lmcache-redis"],
      ["redis-cluster://u:p@a:1", "redis+cluster://u:p@a:1?layout=lmcache-redis"],
      ["redis+cluster://a:1", "redis+cluster://a:1?layout=lmcache-redis"],
      ["valkey://h:1", "redis://h:1?layout=payload"],
      ["valkey+cluster://a:1,b:2", "redis+cluster://a:1,b:2?layout=payload"],
      ["resp://h:1", "redis://h:1?layout=payload"],
      [
        "s3://bucket/kv?endpoint=http://h:1",
        "s3://bucket/kv?endpoint=http://h:1&layout=lmcache-s3",
      ],
    ] as const
  ) assert.equal(storeOf(url), wanted);
});

test("remote_url with a layout is for this library alone, and code speaks to nobody else", () => {
  for (const url of ["redis://h:1?layout=lmshm", "valkey://h?ttl=5&layout=lmcache-redis"]) {
    assert.equal(storeOf(url), url);
    assert.deepEqual(load({ remote_url: url }).notices, []);
  }
  assert.equal(optionsFrom(createConfig({ remoteUrl: "redis://h" })).options.store, "redis://h");
  const { config, notices } = load({ remote_url: "redis://h" });
  assert.match(
    notices.join(),
    /^remote_url \(.*layout=lmcache-redis\); with layout=lmshm in the URL/,
  );
  // What was loaded can be loaded again.
  assert.equal(createConfig(config).remoteUrl, config.remoteUrl);
});

test("a login, a database and a time to live that LMCache has beside the URL are heeded", () => {
  assert.equal(
    storeOf("resp://h:1", { username: "u", password: "p/@" }),
    "redis://u:p%2F%40@h:1?layout=payload",
  );
  assert.equal(
    storeOf("valkey://h:1", { valkey_password: 77, valkey_database: 2 }),
    "redis://:77@h:1/2?layout=payload",
  );
  assert.equal(
    storeOf("valkey://a:1, b:2", { valkey_mode: "cluster", valkey_database: 2 }),
    "redis+cluster://a:1,b:2?layout=payload",
  );
  const ttl = (extra: Extra) => storeOf("valkey://h:1", extra);
  assert.equal(ttl({ valkey_enable_ttl: true }), "redis://h:1?ttl=86400&layout=payload");
  assert.equal(
    ttl({ valkey_enable_ttl: "True", valkey_ttl_sec: 60 }),
    "redis://h:1?ttl=60&layout=payload",
  );
  assert.equal(ttl({ valkey_ttl_sec: 60 }), "redis://h:1?layout=payload");
  // A file with the login wins.
  assert.equal(
    storeOf("resp://h:1", { password: "p", "lmshm.store_secret_file": "/s" }),
    "redis://h:1?layout=payload",
  );
  const { config } = load({ remote_url: "resp://h:1" }, { password: "hush" });
  assert.ok(!JSON.stringify(config).includes("hush"));
});

test("LMCache's s3:// names bucket and server in one", () => {
  const plain = { s3_region: "US-WEST-04A", disable_tls: true };
  assert.equal(
    storeOf("s3://test-127.example.com", plain),
    "s3://test-127?endpoint=http://example.com&region=US-WEST-04A&path_style=false" +
      "&via=test-127.example.com:80&layout=lmcache-s3",
  );
  assert.equal(
    storeOf("s3://b-1.h:8333", {
      ...{ ...plain, aws_access_key_id: "id", aws_secret_access_key: "a/b+c" },
    }),
    "s3://id:a%2Fb%2Bc@b-1?endpoint=http://h:8333&region=US-WEST-04A&path_style=false" +
      "&via=b-1.h:8333&layout=lmcache-s3",
  );
  const url = "s3://b?endpoint=https://s3.eu-central-1.amazonaws.com&region=eu-central-1" +
    "&path_style=false&via=127.0.0.1:PORT&layout=lmcache-s3";
  for (const host of ["b", "b.s3.eu-central-1.amazonaws.com"]) {
    const said = refusal(`s3://${host}`, {
      ...{ s3_region: "eu-central-1", aws_access_key_id: "id", aws_secret_access_key: "hush" },
    });
    assert.ok(said.includes(`lmshm.remote_url: ${url}; or disable_tls`) && !said.includes("hush"));
  }
  assert.match(refusal("s3://b--x-s3.s3express-use1-az4.us-east-1.amazonaws.com"), /S3 Express/);
  assert.match(refusal("s3://b.h", { s3_enable_s3express: true }), /S3 Express/);
});

test("what cannot be translated is refused with what to write instead", () => {
  for (
    const [url, pattern] of [
      [
        "rediss://u:hush@h:6380/2",
        /lmshm\.remote_url: redis:\/\/127\.0\.0\.1:PORT\/2\?layout=lmcache-redis/,
      ],
      ["valkeys://h", /lmshm\.remote_url: redis:\/\/127\.0\.0\.1:PORT\?layout=payload/],
      [
        "redis-sentinel://a:1,b:2",
        /lmshm\.remote_url: redis:\/\/MASTER:6379\?layout=lmcache-redis/,
      ],
      [
        "unix:///run/r.sock",
        /redis\+unix:\/\/\/run\/r\.sock\?layout=lmcache-redis.* unix:\/run\/r\.sock/,
      ],
      ["lm://h:1", /fs:\/\/HOST:0\/dir/],
      ["valkey://h:1/2", /valkey_database: 2/],
      ["valkey://a:1,b:2", /valkey_mode: cluster/],
      ["valkey://<your host>:6379", /place-holder .* valkey:\/\/10\.0\.0\.7:6379/],
      ["mooncakestore://h:1", /has the scheme mooncakestore:\/\//],
      ["redis://u:hu/sh@h:1", /in a password write \/ as %2F/],
      ["s3://id:hu/sh@b", /in a password write \/ as %2F/],
      ["redis://h:1/0?prefix=a@b", /write it as %40 there/],
      ["redis://u:hu#sh@h:1", /has a password in a place/],
    ] as const
  ) {
    const said = refusal(url);
    assert.match(said, pattern);
    assert.ok(!/hu.?sh/.test(said), said);
  }
  assert.match(refusal("valkey://h:1", { tls_enable: true }), /127\.0\.0\.1:PORT\?layout=payload/);
});

test("lmshm.remote_url is used in place of remote_url", () => {
  const own = "redis://127.0.0.1:6380?layout=lmcache-redis";
  assert.equal(storeOf("rediss://h:6380", { "lmshm.remote_url": own }), own);
  const { notices } = load({ remote_url: "redis://h" }, { "lmshm.remote_url": own });
  assert.match(notices.join(), /^lmshm\.remote_url \(.*\) is used in place of remote_url$/);
  const { config } = load({}, { "lmshm.remote_url": "valkey://h" });
  assert.equal(config.remoteUrl, "redis://h?layout=payload");
  const code = loadConfig({
    text: JSON.stringify({ extra_config: { "lmshm.remote_url": own } }),
    environment: null,
    overrides: { remoteUrl: "redis://code" },
  });
  assert.equal(code.config.remoteUrl, "redis://code");
});

test("what LMCache's keys say of the store has an effect, and no notice denies it", () => {
  const denied = (remote_url: string, extra: Extra) =>
    load({ remote_url }, extra).notices.filter((notice) => /without effect/.test(notice)).join();
  assert.equal(
    denied("valkey://h:1", {
      ...{
        valkey_username: "u",
        valkey_password: "p",
        valkey_database: 2,
        valkey_mode: "standalone",
      },
      ...{ valkey_enable_ttl: true, valkey_ttl_sec: 5, tls_enable: false },
    }),
    "",
  );
  const s3 = {
    s3_region: "r",
    disable_tls: true,
    aws_access_key_id: "i",
    aws_secret_access_key: "k",
  };
  assert.equal(denied("s3://b.h", s3), "");
  assert.equal(denied("resp://h:1", { username: "u", password: "p" }), "");
  // What is not used is told.
  assert.match(denied("valkey://h:1", { valkey_num_workers: 3 }), /valkey_num_workers/);
  assert.match(denied("redis://h:1", { valkey_password: "p" }), /valkey_password/);
  const file = { "lmshm.store_secret_file": "/s", valkey_password: "p" };
  assert.match(denied("valkey://h:1", file), /valkey_password/);
});

test("what is wrong with lmshm.remote_url is said of that key", () => {
  const of = (url: string) => refusal("redis://h", { "lmshm.remote_url": url });
  assert.match(of("rediss://h"), / lmshm\.remote_url "rediss:\/\/h" wants TLS/);
  assert.match(of("http://h"), / lmshm\.remote_url "http:\/\/h" has the scheme/);
});

test("LMCache takes the login of redis-cluster:// as it is written", () => {
  for (
    const [login, coded] of [
      ["u:p", "u:p"],
      [":a%40b", ":a%2540b"],
      ["u:a/b?c#d%e:f", "u:a%2Fb%3Fc%23d%25e%3Af"],
      ["u:a@b", "u:a%40b"],
    ]
  ) {
    assert.equal(
      storeOf(`redis-cluster://${login}@n1:1,n2:2`),
      `redis+cluster://${coded}@n1:1,n2:2?layout=lmcache-redis`,
    );
  }
});

test("the plug-in redis among remote_storage_plugins is a server", () => {
  const remote_storage_plugins = ["redis", "bigtable"];
  const of = (extra: Extra) => load({ remote_storage_plugins }, extra).config.remoteUrl;
  assert.equal(
    of({ "remote_storage_plugin.redis.redis_url": "redis://h:1" }),
    "redis://h:1?layout=lmcache-redis",
  );
  assert.equal(of({ redis_url: "redis://h:2" }), "redis://h:2?layout=lmcache-redis");
  assert.equal(of({}), "redis://localhost:6379?layout=lmcache-redis");
  assert.throws(
    () => of({ redis_url: "rediss://h:2" }),
    /remote_storage_plugins "rediss:\/\/h:2" wants TLS/,
  );
});
