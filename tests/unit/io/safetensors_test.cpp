#include <ctrain/io/safetensors.hpp>

#include <cmath>
#include <limits>

#include "scratch.hpp"

namespace {

using ctrain::SafeTensors;
using ctrain::StoredType;
using ctrain::TensorToSave;
using scratch::error_of;

/// Element i of a golden tensor is base + i / 4.
std::vector<float> ramp(float base, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = base + float(i) / 4;
  return values;
}

std::vector<float> values_of(const ctrain::TensorSource& source, const std::string& name) {
  const ctrain::TensorInfo* info = source.find(name);
  REQUIRE(info != nullptr);
  std::vector<float> values(std::size_t(ctrain::element_count(info->shape).value()));
  source.read(name, values.data(), values.size());
  return values;
}

std::string with_header(const std::string& json, std::size_t data_bytes, std::uint64_t length) {
  std::string file(reinterpret_cast<const char*>(&length), 8);
  return file + json + std::string(data_bytes, '\0');
}

/// The complaint about a file with this header, followed by this much data.
std::string complaint(const std::string& json, std::size_t data_bytes) {
  const scratch::Folder folder;
  const auto path = folder.path / "lying.safetensors";
  scratch::put(path, with_header(json, data_bytes, json.size()));
  const std::string error = error_of([&] { SafeTensors file(path); });
  CHECK((error == "no error" || error.starts_with(path.string() + ": ")));
  return error;
}

/// A header entry of floats.
std::string entry(const std::string& name, const std::string& shape, const std::string& offsets) {
  return "\"" + name + "\":{\"dtype\":\"F32\",\"shape\":" + shape + ",\"data_offsets\":" + offsets +
         "}";
}

}  // namespace

TEST_CASE("io.safetensors.reads_what_the_python_library_wrote") {
  const SafeTensors file(scratch::golden("python.safetensors"));
  CHECK(file.names().size() == 12);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  CHECK(values_of(file, "b.float") == ramp(1, 6));
  CHECK(file.find("b.float")->shape == std::vector<std::int64_t>{2, 3});
  CHECK(values_of(file, "a.float") == ramp(-2, 4));
  CHECK(values_of(file, "half") == ramp(0, 5));
  CHECK(values_of(file, "brain") == ramp(3, 4));
  CHECK(values_of(file, "scalar") == std::vector<float>{2.5f});
  CHECK(values_of(file, "empty").empty());
  CHECK(values_of(file, "词.\"quoted\"\n") == ramp(5, 1));
  const ctrain::StoredTensor integers = file.stored("long");
  CHECK(integers.type == StoredType::i64);
  std::int64_t numbers[3];
  REQUIRE(integers.data.size() == sizeof numbers);
  std::memcpy(numbers, integers.data.data(), sizeof numbers);
  CHECK((numbers[0] == -1 && numbers[1] == 0 && numbers[2] == 1));
  CHECK(file.stored("flags").type == StoredType::boolean);
  CHECK(file.stored("bytes").data[2] == std::byte{255});
}

TEST_CASE("io.safetensors.writes_the_bytes_that_the_python_library_writes") {
  const scratch::Folder folder;
  const auto golden = scratch::golden("python.safetensors");
  const SafeTensors file(golden);
  std::vector<TensorToSave> tensors;
  std::vector<ctrain::StoredTensor> stored;
  for (const std::string& name : file.names()) {
    const ctrain::StoredTensor& t = stored.emplace_back(file.stored(name));
    tensors.push_back(ctrain::tensor_in_memory(name, t.type, t.shape, t.data.data()));
  }
  std::reverse(tensors.begin(), tensors.end());  // the writer finds the order itself
  ctrain::write_safetensors(folder.path / "ours.safetensors", tensors, file.metadata());
  CHECK(scratch::bytes_of(folder.path / "ours.safetensors") == scratch::bytes_of(golden));
}

TEST_CASE("io.safetensors.streams_a_tensor_from_its_source_in_pieces") {
  const scratch::Folder folder;
  const std::vector<float> values = ramp(0, 1000);
  TensorToSave tensor = ctrain::tensor_in_memory("x", StoredType::f32, {10, 100}, values.data());
  int calls = 0;
  tensor.bytes = [whole = tensor.bytes, &calls](std::uint64_t offset, std::size_t limit) {
    ++calls;
    return whole(offset, std::min<std::size_t>(limit, 999));
  };
  ctrain::write_safetensors(folder.path / "x.safetensors", {tensor});
  CHECK(calls == 5);
  const SafeTensors file(folder.path / "x.safetensors");
  CHECK(values_of(file, "x") == values);
  CHECK(file.metadata().empty());

  tensor.bytes = [](std::uint64_t, std::size_t) { return std::span<const std::byte>(); };
  CHECK_THAT(error_of([&] { ctrain::write_safetensors(folder.path / "x.safetensors", {tensor}); }),
             Catch::Contains("the source of tensor \"x\" gave 0 bytes"));
  CHECK(values_of(SafeTensors(folder.path / "x.safetensors"), "x") == values);
}

TEST_CASE("io.safetensors.the_writer_refuses_what_no_reader_accepts") {
  const scratch::Folder folder;
  const auto path = folder.path / "x.safetensors";
  const float value = 1;
  const auto tensor = [&](const char* name, std::vector<std::int64_t> shape) {
    return ctrain::tensor_in_memory(name, StoredType::f32, std::move(shape), &value);
  };
  const auto complaint_about = [&](std::vector<TensorToSave> tensors) {
    return error_of([&] { ctrain::write_safetensors(path, tensors); });
  };
  CHECK_THAT(complaint_about({tensor("a", {1}), tensor("a", {1})}),
             Catch::Contains("two tensors would be called \"a\""));
  CHECK_THAT(complaint_about({tensor("__metadata__", {1})}), Catch::Contains("__metadata__"));
  CHECK_THAT(complaint_about({tensor("a", {-1})}), Catch::Contains("impossible shape [-1]"));
  CHECK_THAT(complaint_about({tensor("a", {INT64_MAX, 2})}), Catch::Contains("impossible shape"));
  CHECK_THAT(complaint_about({tensor("\xff", {1})}), Catch::Contains("not UTF-8"));
  CHECK(std::filesystem::is_empty(folder.path));
}

TEST_CASE("io.safetensors.an_empty_list_of_tensors_is_a_file") {
  const scratch::Folder folder;
  ctrain::write_safetensors(folder.path / "x.safetensors", {});
  CHECK(SafeTensors(folder.path / "x.safetensors").names().empty());
}

TEST_CASE("io.safetensors.widens_every_half_exactly_at_any_alignment") {
  std::vector<std::byte> bytes(1 + 2 * 65536);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = std::uint16_t(i);
    std::memcpy(bytes.data() + 1 + 2 * i, &bits, 2);
  }
  std::vector<float> brain(65536), half(65536);
  ctrain::widen(brain.data(), bytes.data() + 1, 65536, StoredType::bf16);
  ctrain::widen(half.data(), bytes.data() + 1, 65536, StoredType::f16);
  int wrong = 0;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    wrong += std::bit_cast<std::uint32_t>(brain[i]) != i << 16;
    const int exponent = int(i >> 10) & 31, mantissa = int(i) & 1023;
    if (exponent == 31) {
      wrong += mantissa == 0 ? !std::isinf(half[i]) : !std::isnan(half[i]);
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    wrong += double(half[i]) != (i & 0x8000 ? -magnitude : magnitude);
  }
  CHECK(wrong == 0);
}

TEST_CASE("io.safetensors.reads_only_floats_and_only_into_the_right_size") {
  const SafeTensors file(scratch::golden("python.safetensors"));
  float values[6] = {};
  CHECK_THAT(error_of([&] { file.read("absent", values, 6); }),
             Catch::Contains("there is no tensor \"absent\""));
  CHECK_THAT(error_of([&] { file.read("b.float", values, 5); }),
             Catch::Contains("\"b.float\" has shape [2, 3], but the model needs 5 elements"));
  CHECK_THAT(error_of([&] { file.read("long", values, 3); }), Catch::Contains("is stored as I64"));
  CHECK_THAT(error_of([&] { file.stored("absent"); }), Catch::Contains("there is no tensor"));
}

TEST_CASE("io.safetensors.rejects_a_file_that_is_cut") {
  const scratch::Folder folder;
  const auto path = folder.path / "cut.safetensors";
  const std::string whole = scratch::bytes_of(scratch::golden("python.safetensors"));
  int accepted = 0;
  for (std::size_t size = 0; size < whole.size(); ++size) {
    scratch::put(path, whole.substr(0, size));
    accepted += error_of([&] { SafeTensors file(path); }) == "no error";
  }
  CHECK(accepted == 0);
  CHECK_THAT(error_of([&] { SafeTensors file(path); }),
             Catch::Contains("is cut short: tensor \"flags\" ends at byte 111"));
  scratch::put(path, "");
  CHECK_THAT(error_of([&] { SafeTensors file(path); }), Catch::Contains("has 0 bytes"));
}

TEST_CASE("io.safetensors.rejects_a_header_length_that_lies") {
  const scratch::Folder folder;
  const auto path = folder.path / "lying.safetensors";
  for (const std::uint64_t length : {std::uint64_t{3}, std::uint64_t{100'000'001}, UINT64_MAX}) {
    scratch::put(path, with_header("{}", 0, length));
    CHECK_THAT(error_of([&] { SafeTensors file(path); }), Catch::Contains("claims a header of"));
  }
}

TEST_CASE("io.safetensors.accepts_a_padded_header_and_tensors_in_any_header_order") {
  CHECK(complaint("{}   ", 0) == "no error");
  CHECK(complaint("{" + entry("b", "[1]", "[4,8]") + "," + entry("a", "[1]", "[0,4]") + "}", 8) ==
        "no error");
  CHECK(complaint("{" + entry("b", "[0,9]", "[0,0]") + "," + entry("a", "[]", "[0,4]") + "}", 4) ==
        "no error");
}

TEST_CASE("io.safetensors.reads_beyond_4_GiB") {
  const scratch::Folder folder;
  const auto path = folder.path / "long.safetensors";
  const std::string json = "{" + entry("a", "[1200000000]", "[0,4800000000]") + "," +
                           entry("b", "[2]", "[4800000000,4800000008]") + "}";
  scratch::put(path, with_header(json, 0, json.size()));
  std::filesystem::resize_file(path, 8 + json.size() + 4'800'000'000);  // a hole: takes no space
  std::ofstream(path, std::ios::binary | std::ios::app) << std::string("\0\0\x80\x3f\0\0\0\x40", 8);
  CHECK(values_of(SafeTensors(path), "b") == std::vector<float>{1, 2});
}

TEST_CASE("io.safetensors.rejects_overlap_holes_and_trailing_bytes") {
  CHECK_THAT(
      complaint("{" + entry("a", "[2]", "[0,8]") + "," + entry("b", "[2]", "[4,12]") + "}", 12),
      Catch::Contains("tensor \"b\" begins at byte 4") && Catch::Contains("(overlap)"));
  CHECK_THAT(
      complaint("{" + entry("a", "[1]", "[0,4]") + "," + entry("b", "[1]", "[8,12]") + "}", 12),
      Catch::Contains("tensor \"b\" begins at byte 8") && Catch::Contains("(hole)"));
  CHECK_THAT(complaint("{" + entry("a", "[1]", "[4,8]") + "}", 8), Catch::Contains("(hole)"));
  CHECK_THAT(complaint("{" + entry("a", "[1]", "[0,4]") + "}", 7),
             Catch::Contains("has 3 bytes after the last tensor"));
  CHECK_THAT(complaint("{" + entry("a", "[1]", "[0,4]") + "}", 3),
             Catch::Contains("is cut short: tensor \"a\""));
}

TEST_CASE("io.safetensors.rejects_sizes_that_do_not_match_or_overflow") {
  CHECK_THAT(complaint("{" + entry("a", "[2,2]", "[0,12]") + "}", 12),
             Catch::Contains("tensor \"a\" has shape [2, 2] of F32, that is 16 bytes, but its "
                             "data_offsets span 12"));
  CHECK_THAT(complaint("{" + entry("a", "[4294967296,4294967296]", "[0,0]") + "}", 0),
             Catch::Contains("more than a file can hold"));
  CHECK_THAT(complaint("{" + entry("a", "[4611686018427387904]", "[0,0]") + "}", 0),
             Catch::Contains("more than a file can hold"));
  CHECK_THAT(complaint("{" + entry("a", "[18446744073709551615]", "[0,4]") + "}", 4),
             Catch::Contains("too large"));
  CHECK_THAT(complaint("{" + entry("a", "[1]", "[8,4]") + "}", 8),
             Catch::Contains("ends before it begins"));
}

TEST_CASE("io.safetensors.rejects_names_that_occur_twice") {
  CHECK_THAT(
      complaint("{" + entry("a", "[0]", "[0,0]") + "," + entry("a", "[0]", "[0,0]") + "}", 0),
      Catch::Contains("the name \"a\" occurs twice"));
  CHECK_THAT(complaint(R"({"__metadata__":{},"__metadata__":{}})", 0),
             Catch::Contains("\"__metadata__\" occurs twice"));
  CHECK_THAT(complaint(R"({"__metadata__":{"k":"1","k":"2"}})", 0),
             Catch::Contains("metadata key \"k\" occurs twice"));
  CHECK_THAT(complaint(R"({"a":{"dtype":"F32","dtype":"F32"}})", 0),
             Catch::Contains("has dtype twice"));
}

TEST_CASE("io.safetensors.rejects_headers_of_another_form") {
  CHECK_THAT(complaint("{\"a\xff\":1}", 0), Catch::Contains("not JSON in UTF-8"));
  CHECK_THAT(complaint("[1]", 0), Catch::Contains("does not begin with '{'"));
  CHECK_THAT(complaint("{} {}", 0), Catch::Contains("not JSON"));
  CHECK_THAT(complaint("{\"a\":1}", 0), Catch::Contains("a number in the wrong place, in \"a\""));
  CHECK_THAT(complaint("{\"a\":null}", 0), Catch::Contains("null in the wrong place"));
  CHECK_THAT(complaint("{\"a\":{\"dtype\":\"F99\"}}", 0), Catch::Contains("has dtype \"F99\""));
  CHECK_THAT(complaint("{\"a\":{\"dtype\":\"F32\"}}", 0), Catch::Contains("lacks dtype, shape"));
  CHECK_THAT(complaint("{\"a\":{\"stride\":1}}", 0), Catch::Contains("unknown field \"stride\""));
  CHECK_THAT(complaint("{\"a\":{\"shape\":[-1]}}", 0), Catch::Contains("a negative number"));
  CHECK_THAT(complaint("{\"a\":{\"shape\":[1.5]}}", 0), Catch::Contains("a fraction"));
  CHECK_THAT(complaint("{\"a\":{\"shape\":[[1]]}}", 0), Catch::Contains("an array"));
  CHECK_THAT(complaint("{\"a\":{\"shape\":{}}}", 0), Catch::Contains("an object"));
  CHECK_THAT(complaint("{" + entry("a", "[]", "[0,4,4]") + "}", 4),
             Catch::Contains("has 3 data_offsets instead of 2"));
  CHECK_THAT(complaint(R"({"__metadata__":{"k":1}})", 0), Catch::Contains("a number"));
  CHECK_THAT(complaint("{\"a\\n\":1}", 0), Catch::Contains("in \"a\\x0a\""));
  CHECK_THAT(complaint("{\"a\":{\"shape\":" + std::string(100'000, '['), 0),
             Catch::Contains("an array"));
}

TEST_CASE("io.safetensors.says_what_a_git_lfs_pointer_is") {
  const scratch::Folder folder;
  const auto path = folder.path / "model.safetensors";
  scratch::put(path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
  CHECK_THAT(error_of([&] { SafeTensors file(path); }), Catch::Contains("Run 'git lfs pull'"));
  CHECK_THAT(error_of([&] { SafeTensors file(folder.path); }), Catch::Contains("Is a directory"));
  CHECK_THAT(error_of([&] { SafeTensors file(folder.path / "no"); }),
             Catch::Contains("No such file or directory"));
}

TEST_CASE("io.safetensors.damaged_files_load_or_are_errors_but_never_crash") {
  const scratch::Folder folder;
  const auto path = folder.path / "damaged.safetensors";
  const std::string whole = scratch::bytes_of(scratch::golden("python.safetensors"));
  std::mt19937 random(1);
  int rejected = 0;
  for (int i = 0; i < 2000; ++i) {
    scratch::put(path, scratch::damaged(whole, random));
    rejected += error_of([&] {
                  const SafeTensors file(path);
                  for (const std::string& name : file.names())
                    if (ctrain::widens_to_float(file.find(name)->type)) values_of(file, name);
                }) != "no error";
  }
  CHECK(rejected > 1000);
}
