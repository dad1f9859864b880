// SPDX-License-Identifier: Apache-2.0
//
// What the S3 engine is made of, without a server: signatures, names, answers, XML, options.
#include <cerrno>

#include "worker/s3/http_response.h"
#include "worker/s3/s3_failure.h"
#include "worker/s3/s3_listing.h"
#include "worker/s3/s3_names.h"
#include "worker/s3/s3_options.h"
#include "worker/s3/s3_record.h"
#include "worker/s3/signature.h"
#include "worker/s3/xml.h"
#include "worker_fixture.hh"

using namespace lmshm;  // NOLINT: a test of many of its parts

namespace {

// The examples of "Signature Calculations for the Authorization Header" in the Amazon S3 API
// reference: one account, one moment.
constexpr char kKeyId[] = "AKIAIOSFODNN7EXAMPLE";
constexpr char kSecret[] = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
constexpr char kTime[] = "20130524T000000Z";
constexpr char kHost[] = "examplebucket.s3.amazonaws.com";
const std::string kEmptyHash = Sha256Hex("");

std::string SignatureOf(const RequestToSign& request) {
  const Sha256Digest key = SigningKey(kSecret, "20130524", "us-east-1");
  const std::string value = Authorization(request, kKeyId, "us-east-1", kTime, key);
  CHECK_STARTS(value,
               "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/"
               "aws4_request,SignedHeaders=");
  return value.substr(value.rfind('=') + 1);
}

S3Options OptionsOf(const StoreUrl& url) {
  S3Options options;
  CHECK_OK(ParseS3Options(url, &options));
  return options;
}

StoreUrl Url(std::vector<std::pair<std::string, std::string>> parameters,
             const std::string& path = "") {
  StoreUrl url;
  url.scheme = "s3";
  url.hosts = {{"kv-cache", 0}};
  url.path = path;
  url.parameters = std::move(parameters);
  return url;
}

std::string Refusal(const StoreUrl& url, int number = EINVAL) {
  S3Options options;
  const Status status = ParseS3Options(url, &options);
  CHECK_EQ(ErrnoName(status.number()), ErrnoName(number));
  return status.text();
}

const std::pair<std::string, std::string> kLocal = {"endpoint", "http://127.0.0.1:8333"};

std::string NameOf(const S3Options& options, std::string_view key) {
  std::string name;
  const Status status = ObjectNameOf(options, key, &name);
  return status.ok() ? name : ErrnoName(status.number());
}

std::string HeadError(std::string_view text) {
  HttpResponseHead head;
  const Status status = ParseHttpHead(text, &head);
  if (status.ok()) return "OK";
  CHECK_EQ(status.number(), EPROTO);
  return status.text();
}

// Of a body that comes in pieces of `piece` bytes; what remains is appended after "|".
std::string Unchunked(std::string_view body, size_t piece) {
  ChunkedBody chunks;
  std::string content;
  for (size_t at = 0; at < body.size();) {
    size_t used = 0;
    const std::string_view now = body.substr(at, piece);
    if (!chunks.Feed(now, &content, &used).ok()) return "EPROTO";
    at += used;
    if (chunks.done()) return content + "|" + std::string(body.substr(at));
    CHECK_EQ(used, now.size());
  }
  return content + "...";
}

std::string TextOf(std::string_view document) {
  XmlElement root;
  return ParseXml(document, &root) ? root.name + ":" + root.text : "no XML";
}

Status FailureOf(int status, const std::string& body, const std::string& headers = "",
                 bool is_signed = true) {
  HttpResponseHead head;
  CHECK_OK(
      ParseHttpHead("HTTP/1.1 " + std::to_string(status) + " X\r\n" + headers + "\r\n", &head));
  const S3Options options = OptionsOf(Url({kLocal}));
  return S3Failure(head, ParseS3Error(head, body), options, is_signed, 1000000000);
}

std::string ErrorXml(const std::string& code, const std::string& more = "") {
  return "<?xml version=\"1.0\"?>\n<Error><Code>" + code +
         "</Code><Message>Why &amp; how.</Message>" + more + "</Error>";
}

}  // namespace

TEST(signatures_are_those_of_the_published_examples) {
  RequestToSign get;
  get.method = "GET";
  get.path = "/test.txt";
  get.payload_hash = kEmptyHash;
  get.headers = {{"host", kHost},
                 {"range", "bytes=0-9"},
                 {"x-amz-content-sha256", kEmptyHash},
                 {"x-amz-date", kTime}};
  CHECK_EQ(SignatureOf(get), "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");

  const std::string hash = Sha256Hex("Welcome to Amazon S3.");
  const std::string path = "/" + UriEncode("test$file.text", true);
  RequestToSign put;
  put.method = "PUT";
  put.path = path;
  put.payload_hash = hash;
  put.headers = {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
                 {"host", kHost},
                 {"x-amz-content-sha256", hash},
                 {"x-amz-date", kTime},
                 {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
  CHECK_EQ(SignatureOf(put), "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd");

  RequestToSign lifecycle;
  lifecycle.method = "GET";
  lifecycle.path = "/";
  lifecycle.query = "lifecycle=";
  lifecycle.payload_hash = kEmptyHash;
  lifecycle.headers = {
      {"host", kHost}, {"x-amz-content-sha256", kEmptyHash}, {"x-amz-date", kTime}};
  CHECK_EQ(SignatureOf(lifecycle),
           "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543");

  RequestToSign list = lifecycle;
  list.query = "max-keys=2&prefix=J";
  CHECK_EQ(SignatureOf(list), "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7");
}

TEST(times_and_names_are_coded_as_the_signature_wants_them) {
  CHECK_EQ(AmzTime(1369353600), kTime);
  CHECK_EQ(UriEncode("a/b c+d@e=f~g-h.i_j\xc3\xa9%", true), "a/b%20c%2Bd%40e%3Df~g-h.i_j%C3%A9%25");
  CHECK_EQ(UriEncode("a/b", false), "a%2Fb");
}

TEST(names_of_each_layout_are_what_others_call_the_object) {
  const std::string key = "meta-llama/Llama@8@0@0a1b@bfloat16%t%1";
  const S3Options lmshm = OptionsOf(Url({kLocal}, "some/prefix"));
  CHECK_EQ(NameOf(lmshm, key), "some/prefix/meta-llama%2FLlama@8@0@0a1b@bfloat16%25t%251");
  CHECK_EQ(NameOf(OptionsOf(Url({kLocal, {"layout", "payload"}})), key), key);
  CHECK_EQ(NameOf(OptionsOf(Url({kLocal, {"layout", "lmcache-s3"}})), key),
           "meta-llama_Llama@8@0@0a1b@bfloat16%t%1");
}

TEST(in_the_layout_of_its_own_every_key_has_a_name_that_leads_back_and_keeps_prefixes) {
  const S3Options options = OptionsOf(Url({kLocal}, "p"));
  for (const std::string key : {"a", ".", "..", "../x", "a//b", "/", "a/", "%2F", "+", " ",
                                "\"<&>'", "\xc3\xa9", ".hidden", "a.b", "%", "a%b/c"}) {
    std::string back;
    const std::string name = NameOf(options, key);
    CHECK(KeyOf(options, name, &back));
    CHECK_EQ(back, key);
    CHECK(name.find('/', 2) == std::string::npos);
    for (size_t n = 0; n <= key.size(); n++) {
      CHECK_STARTS(name, ObjectNamesOf(options, key.substr(0, n)));
    }
  }
  std::string key;
  // Not as we would have written it, hence of somebody else.
  for (const std::string name : {"p/a%2f", "p/a/b", "p/a+", "p/", "q/a", "p/%zz", "p/%01"}) {
    CHECK(!KeyOf(options, name, &key));
  }
}

TEST(names_that_a_server_would_take_for_others_are_refused) {
  const S3Options payload = OptionsOf(Url({kLocal, {"layout", "payload"}}));
  CHECK_EQ(NameOf(payload, "a/../b"), "EINVAL");
  CHECK_EQ(NameOf(payload, "."), "EINVAL");
  CHECK_EQ(NameOf(payload, "a/"), "EINVAL");
  CHECK_EQ(NameOf(payload, "a/..b"), "a/..b");
  CHECK_EQ(NameOf(payload, std::string(1025, 'a')), "ENAMETOOLONG");
  CHECK_EQ(NameOf(payload, std::string(1024, 'a')), std::string(1024, 'a'));
  std::string key;
  CHECK(!KeyOf(payload, "directory/", &key));
}

TEST(options_are_what_the_url_says) {
  const S3Options plain = OptionsOf(Url({kLocal}));
  CHECK_EQ(plain.host, "127.0.0.1:8333");
  CHECK_EQ(plain.connect.name, "127.0.0.1");
  CHECK_EQ(plain.connect.port, 8333);
  CHECK(plain.path_style && !plain.tls && plain.prefix.empty());

  const S3Options named =
      OptionsOf(Url({{"endpoint", "http://s3.local/"}, {"path_style", "false"}}));
  CHECK_EQ(named.host, "kv-cache.s3.local");
  CHECK_EQ(named.connect.port, 80);

  const S3Options six = OptionsOf(Url({{"endpoint", "http://[::1]:9000"}}));
  CHECK_EQ(six.host, "[::1]:9000");
  CHECK_EQ(six.connect.name, "::1");

  const S3Options tunnel =
      OptionsOf(Url({{"region", "eu-central-1"}, {"via", "127.0.0.1:8443"}}, "a//"));
  CHECK_EQ(tunnel.host, "s3.eu-central-1.amazonaws.com");
  CHECK_EQ(tunnel.connect.port, 8443);
  CHECK(tunnel.tls);
  CHECK_EQ(tunnel.prefix, "a/");
}

TEST(options_that_cannot_be_are_refused_with_what_would_be_accepted) {
  const std::string tls = Refusal(Url({{"endpoint", "https://s3.example"}}), EPROTONOSUPPORT);
  CHECK_CONTAINS(tls, "connect = s3.example:443");
  CHECK_CONTAINS(tls, "via=127.0.0.1:8443");
  CHECK_CONTAINS(Refusal(Url({}), EPROTONOSUPPORT), "https://s3.us-east-1.amazonaws.com");
  CHECK_CONTAINS(Refusal(Url({{"endpoint", "127.0.0.1:8333"}})), "http://HOST[:PORT]");
  CHECK_CONTAINS(Refusal(Url({{"endpoint", "http://a/b"}})), "without a path");
  CHECK_CONTAINS(Refusal(Url({{"endpoint", "http://a\r\nb: c"}})), "without a path");
  CHECK_CONTAINS(Refusal(Url({kLocal, {"via", "stunnel"}})), "HOST:PORT");
  CHECK_CONTAINS(Refusal(Url({kLocal, {"path_style", "yes"}})), "true or false");
  CHECK_CONTAINS(Refusal(Url({kLocal, {"layout", "x"}})), "lmcache-s3");
  CHECK_CONTAINS(Refusal(Url({kLocal, {"chunk_bytes", "0"}})), "size in bytes");
  CHECK_CONTAINS(Refusal(Url({kLocal, {"timeout", "0"}})), "seconds");
  CHECK_CONTAINS(Refusal(Url({kLocal, {"regoin", "x"}})), "there is no parameter \"regoin\"");
  StoreUrl url = Url({kLocal});
  url.hosts[0].name = "kv";
  CHECK_CONTAINS(Refusal(url), "3 to 63");
  url = Url({kLocal});
  url.user = "key";
  CHECK_CONTAINS(Refusal(url), "AWS_ACCESS_KEY_ID");
}

TEST(a_secret_in_the_endpoint_is_refused_and_not_repeated) {
  for (const char* endpoint :
       {"http://AKIA:s3cret@127.0.0.1:8333", "https://AKIA:s3cret@s3.example", "s3cret@host"}) {
    S3Options options;
    const Status status = ParseS3Options(Url({{"endpoint", endpoint}}), &options);
    CHECK_EQ(status.number(), EINVAL);
    CHECK(status.text().find("s3cret") == std::string::npos);
  }
}

TEST(heads_of_answers_are_read) {
  const std::string text =
      "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nX-Amz-Meta-LMSHM:  1 2  \r\nETag: \"x\"\r\n\r\n";
  CHECK_EQ(HttpHeadSize(text + "body"), text.size());
  CHECK_EQ(HttpHeadSize(text.substr(0, text.size() - 1)), 0u);
  HttpResponseHead head;
  CHECK_OK(ParseHttpHead(text, &head));
  CHECK_EQ(head.status, 200);
  CHECK(head.content_length == 12u && head.keep_alive && !head.chunked);
  REQUIRE(head.Find("x-amz-meta-lmshm") != nullptr);
  CHECK_EQ(*head.Find("x-amz-meta-lmshm"), "1 2");
  CHECK(head.Find("x") == nullptr);
  CHECK_OK(ParseHttpHead("HTTP/1.1 204\r\nConnection: x, Close\r\n\r\n", &head));
  CHECK(!head.keep_alive);
  CHECK_OK(ParseHttpHead("HTTP/1.0 200 OK\r\n\r\n", &head));
  CHECK(!head.keep_alive);
}

TEST(heads_that_could_be_read_in_two_ways_are_refused) {
  CHECK_CONTAINS(HeadError("HTTP/2 200 OK\r\n\r\n"), "first line");
  CHECK_CONTAINS(HeadError("HTTP/1.1 2000 OK\r\n\r\n"), "first line");
  CHECK_CONTAINS(HeadError("SSH-2.0-OpenSSH_9\r\n\r\n"), "\"SSH-2.0-OpenSSH_9\"");
  CHECK_CONTAINS(HeadError("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
                 "two lengths");
  CHECK_EQ(HeadError("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"), "OK");
  for (const std::string length : {"-1", "+1", "1 ", "0x1", "", "99999999999999999999", "1, 1"}) {
    const std::string line = "HTTP/1.1 200 OK\r\nContent-Length: " + length + "\r\n\r\n";
    if (length != "1 ") CHECK_CONTAINS(HeadError(line), "a header");
  }
  CHECK_CONTAINS(
      HeadError("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
      "a length and a transfer encoding");
  CHECK_CONTAINS(HeadError("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
                 "not asked for");
  CHECK_CONTAINS(HeadError("HTTP/1.1 200 OK\r\n folded: x\r\n\r\n"), "a header");
  CHECK_CONTAINS(HeadError("HTTP/1.1 200 OK\r\nspace : x\r\n\r\n"), "a header");
  CHECK_CONTAINS(HeadError("HTTP/1.1 200 OK\r\nnone\r\n\r\n"), "a header");
}

TEST(chunks_are_put_together_however_they_come) {
  const std::string body = "4;x=y\r\nabcd\r\n0a\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nrest";
  for (size_t piece = 1; piece <= body.size(); piece++) {
    CHECK_STARTS(Unchunked(body, piece), "abcd0123456789|");
  }
  CHECK_EQ(Unchunked(body, body.size()), "abcd0123456789|rest");
  CHECK_EQ(Unchunked("4\r\nab", 100), "ab...");
  for (const std::string wrong : {"x\r\n", "-1\r\na\r\n", "1\r\nabc\r\n", "1\nab", "\r\n",
                                  "1111111111111111\r\n", "1\r\na\r\n\r\n"}) {
    CHECK_EQ(Unchunked(wrong, 100), "EPROTO");
  }
  CHECK_EQ(Unchunked(std::string(5000, '1'), 100), "EPROTO");
}

TEST(dates_are_read_in_the_one_form_that_servers_write) {
  int64_t seconds = 0;
  CHECK(ParseHttpDate("Sun, 06 Nov 1994 08:49:37 GMT", &seconds));
  CHECK_EQ(seconds, 784111777);
  for (const std::string wrong :
       {"Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Foo 1994 08:49:37 GMT",
        "Sun, 06 ovD 1994 08:49:37 GMT", "", "Sun, 06 Nov 1994 08:49:37 CET"}) {
    CHECK(!ParseHttpDate(wrong, &seconds));
  }
}

TEST(xml_is_read_as_far_as_servers_write_it) {
  XmlElement root;
  CHECK(
      ParseXml("<?xml version=\"1.0\"?><!-- x --><a xmlns=\"y>\"><b>1</b> t<b/><c d='e'>&lt;&#34;"
               "&#xe9;&#x1F600;<![CDATA[<&]]></c></a>\n",
               &root));
  CHECK_EQ(root.name, "a");
  CHECK_EQ(root.text, " t");
  CHECK_EQ(root.children.size(), 3u);
  CHECK_EQ(root.TextOf("b"), "1");
  CHECK_EQ(root.TextOf("c"), "<\"\xc3\xa9\xf0\x9f\x98\x80<&");
  CHECK_EQ(root.TextOf("none"), "");
}

TEST(xml_that_is_not_well_formed_is_refused) {
  for (const std::string wrong :
       {"", "a", "<a>", "<a></b>", "<a/><b/>", "<a>&unknown;</a>", "<a>&#0;</a>", "<a>&#xd800;</a>",
        "<a>&#99999999;</a>", "<a>&", "<a b></a>", "<a b=c></a>", "<a b=\"></a>", "</a>", "<a/>x",
        "<!DOCTYPE a [<!ENTITY b \"c\">]><a/>", "<a><![CDATA[</a>", "<a><!-- </a>", "<a"}) {
    CHECK_EQ(TextOf(wrong), "no XML");
  }
  std::string deep;
  for (int i = 0; i < 100000; i++) deep += "<a>";
  CHECK_EQ(TextOf(deep), "no XML");
}

TEST(pages_of_a_list_are_read) {
  S3ListPage page;
  CHECK(ParseS3ListPage(
      "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>a&#x2b;b"
      "</NextContinuationToken><Contents><Key>x&amp;y</Key><Size>1</Size></Contents>"
      "<Contents><Key>z</Key></Contents></ListBucketResult>",
      &page));
  CHECK_EQ(page.names.size(), 2u);
  CHECK_EQ(page.names[0], "x&y");
  CHECK_EQ(page.next, "a+b");
  CHECK(ParseS3ListPage("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
                        &page));
  CHECK(page.names.empty() && page.next.empty());
  // More, but not where; nothing about more; something else.
  CHECK(!ParseS3ListPage("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
                         &page));
  CHECK(!ParseS3ListPage("<ListBucketResult></ListBucketResult>", &page));
  CHECK(!ParseS3ListPage("<html></html>", &page));
  CHECK(!ParseS3ListPage(
      "<ListBucketResult><IsTruncated>false</IsTruncated><Contents/></ListBucketResult>", &page));
}

TEST(a_record_comes_back_from_the_header) {
  ObjectRecord record;
  record.length = 5;
  record.crc32c = 0x12345678;
  record.key_check = KeyCheck("k");
  record.attributes = {{"name", "with space, \xc3\xa9 and \r\n"}};
  std::string value;
  CHECK_OK(RecordHeader(record, &value));
  for (const char c : value) CHECK(c >= ' ' && c <= '~');
  const auto info_of = [&](const std::string& text, const std::string& length,
                           std::string_view key) {
    HttpResponseHead head;
    CHECK_OK(ParseHttpHead("HTTP/1.1 200 OK\r\nContent-Length: " + length +
                               "\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
                               "X-Amz-Meta-Lmshm: " +
                               text + "\r\n\r\n",
                           &head));
    ObjectInfo info;
    const Status status = InfoOf(head, key, &info);
    if (status.ok()) {
      CHECK_EQ(info.mtime_ms, 784111777000u);
      CHECK_EQ(info.attributes[0].value, record.attributes[0].value);
      CHECK(info.crc32c == 0x12345678u);
    }
    return status.ok() ? "OK" : ErrnoName(status.number());
  };
  CHECK_EQ(info_of(value, "5", "k"), "OK");
  CHECK_EQ(info_of(value, "6", "k"), "EBADMSG");
  CHECK_EQ(info_of(value, "5", "l"), "EBADMSG");
  CHECK_EQ(info_of("nonsense", "5", "k"), "EBADMSG");
  CHECK_EQ(info_of("", "5", "k"), "EBADMSG");
}

TEST(attributes_that_s3_has_no_room_for_are_refused) {
  ObjectRecord record;
  record.attributes = {{"a", std::string(1900, 'x')}};
  std::string value;
  CHECK_OK(RecordHeader(record, &value));
  record.attributes[0].value += std::string(200, 'x');
  const Status status = RecordHeader(record, &value);
  CHECK_EQ(ErrnoName(status.number()), "E2BIG");
  CHECK_CONTAINS(status.text(), "2048");
}

TEST(failures_say_who_refuses_what_and_what_helps) {
  CHECK_EQ(ErrnoName(FailureOf(404, ErrorXml("NoSuchKey")).number()), "ENOENT");
  Status status = FailureOf(404, ErrorXml("NoSuchBucket"));
  CHECK_EQ(ErrnoName(status.number()), "ENXIO");
  CHECK_EQ(status.text(),
           "the server at 127.0.0.1:8333 answers 404 NoSuchBucket \"Why & how.\" (create it, or "
           "correct the bucket in the store's URL)");
  status = FailureOf(404, "<html>not found</html>");
  CHECK_EQ(ErrnoName(status.number()), "ENXIO");
  CHECK_CONTAINS(status.text(), "is there an S3 server");
  status = FailureOf(403, ErrorXml("SignatureDoesNotMatch"));
  CHECK_EQ(ErrnoName(status.number()), "EACCES");
  CHECK_CONTAINS(status.text(), "AWS_SECRET_ACCESS_KEY");
  status = FailureOf(403, ErrorXml("AccessDenied"), "", false);
  CHECK_CONTAINS(status.text(), "there are no credentials");
  status =
      FailureOf(403, ErrorXml("RequestTimeTooSkewed"), "Date: Sun, 09 Sep 2001 01:46:00 GMT\r\n");
  CHECK_EQ(ErrnoName(status.number()), "EACCES");
  CHECK_CONTAINS(status.text(), "this machine's clock is 40 s ahead of the server's");
  status = FailureOf(301, ErrorXml("PermanentRedirect"), "x-amz-bucket-region: eu-west-3\r\n");
  CHECK_EQ(ErrnoName(status.number()), "EINVAL");
  CHECK_CONTAINS(status.text(), "region=eu-west-3");
  status = FailureOf(400, ErrorXml("AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>"));
  CHECK_CONTAINS(status.text(), "region=eu-west-3");
  status = FailureOf(307, "", "Location: http://elsewhere/\r\n");
  CHECK_CONTAINS(status.text(), "http://elsewhere/");
  CHECK_EQ(ErrnoName(FailureOf(503, ErrorXml("SlowDown")).number()), "EAGAIN");
  CHECK_EQ(ErrnoName(FailureOf(507, "").number()), "ENOSPC");
  CHECK_EQ(ErrnoName(FailureOf(500, ErrorXml("InternalError")).number()), "EIO");
  CHECK_EQ(ErrnoName(FailureOf(400, ErrorXml("BadDigest")).number()), "EBADMSG");
  // Nothing that a server says breaks a line of the log.
  CHECK(FailureOf(500, ErrorXml("a\nb")).text().find('\n') == std::string::npos);
}

CHECK_MAIN
