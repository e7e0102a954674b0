#include <ctrain/io/torch_bin.hpp>

#include "scratch.hpp"
#include <zip.h>

namespace {

using ctrain::StoredType;
using ctrain::TorchBin;
using scratch::error_of;
using Entries = std::vector<std::pair<std::string, std::string>>;

std::vector<float> values_of(const TorchBin& file, const std::string& name) {
  const ctrain::TensorInfo* info = file.find(name);
  REQUIRE(info != nullptr);
  std::vector<float> values(std::size_t(ctrain::element_count(info->shape).value()));
  file.read(name, values.data(), values.size());
  return values;
}

void make_zip(const std::filesystem::path& path, const Entries& entries,
              int method = ZIP_CM_STORE) {
  std::filesystem::remove(path);
  zip_t* archive = ::zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
  REQUIRE(archive != nullptr);
  for (const auto& [name, bytes] : entries) {
    zip_source_t* source = ::zip_source_buffer(archive, bytes.data(), bytes.size(), 0);
    const zip_int64_t index = ::zip_file_add(archive, name.c_str(), source, 0);
    REQUIRE(index >= 0);
    ::zip_set_file_compression(archive, zip_uint64_t(index), method, 0);
  }
  REQUIRE(::zip_close(archive) == 0);
}

std::string number(std::uint32_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string text(const std::string& value) {
  return "X" + number(std::uint32_t(value.size())) + value;
}
std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string integer(std::int32_t value) {
  return "J" + number(std::uint32_t(value));
}

/// What torch.save pickles for one tensor; `sizes` and `strides` are ready opcodes.
std::string tensor(const std::string& sizes, const std::string& strides, std::int32_t offset = 0,
                   std::int32_t elements = 4, const std::string& key = "0") {
  return global("torch._utils", "_rebuild_tensor_v2") + "((" + text("storage") +
         global("torch", "FloatStorage") + text(key) + text("cpu") + integer(elements) + "tQ" +
         integer(offset) + sizes + strides + "\x89" + global("collections", "OrderedDict") + ")RtR";
}
std::string one(std::int32_t value) {
  return integer(value) + "\x85";
}
std::string dict(const std::string& items) {
  return "\x80\x02}(" + items + "u.";
}

/// The complaint about an archive whose data.pkl is this, with 16 bytes of data.
std::string complaint(const std::string& pickle) {
  const scratch::Folder folder;
  const auto path = folder.path / "lying.bin";
  make_zip(path, {{"x/data.pkl", pickle}, {"x/data/0", std::string(16, '\0')}});
  const std::string error = error_of([&] { TorchBin file(path); });
  CHECK((error == "no error" || error.starts_with(path.string() + ": ")));
  return error;
}

void check_golden(const TorchBin& file) {
  using Values = std::vector<float>;
  CHECK(file.names().size() == 13);
  CHECK(values_of(file, "plain") == Values{1, 1.25f, 1.5f, 1.75f, 2, 2.25f});
  CHECK(file.find("plain")->shape == std::vector<std::int64_t>{2, 3});
  CHECK(values_of(file, "transposed") ==
        Values{0, 1, 2, 0.25f, 1.25f, 2.25f, 0.5f, 1.5f, 2.5f, 0.75f, 1.75f, 2.75f});
  CHECK(values_of(file, "window") == Values{1.25f, 1.5f, 2.25f, 2.5f});
  CHECK(values_of(file, "expanded") == Values{4, 4, 4});
  CHECK(values_of(file, "tied.one") == Values{10, 10.25f, 10.5f, 10.75f});
  CHECK(values_of(file, "tied.two") == values_of(file, "tied.one"));
  CHECK(values_of(file, "half") == Values{0, 0.25f, 0.5f, 0.75f, 1});
  CHECK(values_of(file, "brain") == Values{3, 3.25f, 3.5f, 3.75f});
  CHECK(values_of(file, "parameter") == Values{2, 2.25f});
  CHECK(values_of(file, "scalar") == Values{2.5f});
  CHECK(values_of(file, "empty").empty());
  CHECK(file.find("position_ids")->type == StoredType::i64);
  CHECK(file.find("flags")->type == StoredType::boolean);
}

}  // namespace

TEST_CASE("io.torch_bin.reads_what_torch_save_wrote") {
  check_golden(TorchBin(scratch::golden("torch.bin")));
}

TEST_CASE("io.torch_bin.reads_zip64") {
  check_golden(TorchBin(scratch::golden("zip64.bin")));
}

TEST_CASE("io.torch_bin.unwraps_a_tensor_that_has_attributes") {
  const TorchBin file(scratch::golden("attribute.bin"));
  CHECK(values_of(file, "marked").size() == 6);
}

TEST_CASE("io.torch_bin.finds_the_state_dict_inside_a_checkpoint") {
  const TorchBin file(scratch::golden("nested.bin"));
  CHECK(file.names() == std::vector<std::string>{"plain"});
}

TEST_CASE("io.torch_bin.runs_nothing_that_a_pickle_asks_for") {
  const std::filesystem::path trace = "/tmp/ctrain_pickle_was_executed";
  std::filesystem::remove(trace);
  CHECK_THAT(error_of([] { TorchBin file(scratch::golden("os_system.bin")); }),
             Catch::Contains("asks for the Python object \"posix.system\"") &&
                 Catch::Contains("nothing was run"));
  CHECK_FALSE(std::filesystem::exists(trace));
  for (const char* name : {"os\nsystem", "builtins\neval", "torch\nload", "torch._utils\n_rebuild"})
    CHECK_THAT(
        complaint("\x80\x02" + ("c" + std::string(name)) + "\n" + text("touch x") + "\x85R."),
        Catch::Contains("nothing was run"));
}

TEST_CASE("io.torch_bin.rejects_opcodes_that_no_dict_of_tensors_needs") {
  // INST, OBJ, NEWOBJ, STACK_GLOBAL, EXT1, NEXT_BUFFER, FRAME, PERSID, STRING, DUP, POP
  for (const char opcode : {'i', 'o', '\x81', '\x93', '\x82', '\x97', '\x95', 'P', 'S', '2', '0'})
    CHECK_THAT(complaint(std::string("\x80\x02") + opcode + "x\ny\n."),
               Catch::Contains("has opcode " + std::to_string(static_cast<unsigned char>(opcode)) +
                               " at byte 2"));
  CHECK_THAT(complaint("\x80\x04}."), Catch::Contains("has protocol 4 instead of 2"));
}

TEST_CASE("io.torch_bin.tells_how_to_save_the_older_format_again") {
  CHECK_THAT(error_of([] { TorchBin file(scratch::golden("legacy.bin")); }),
             Catch::Contains("is in the format of torch before 1.6. Re-save it in Python: "
                             "torch.save(torch.load(path"));
}

TEST_CASE("io.torch_bin.rejects_compressed_entries") {
  CHECK_THAT(error_of([] { TorchBin file(scratch::golden("compressed.bin")); }),
             Catch::Contains("\"torch/data.pkl\" is compressed"));
}

TEST_CASE("io.torch_bin.rejects_tensors_outside_their_storage") {
  const auto with = [](const std::string& value) { return complaint(dict(text("a") + value)); };
  CHECK(with(tensor(one(4), one(1))) == "no error");
  CHECK(with(tensor(one(2), one(3))) == "no error");
  CHECK(with(tensor(one(1'000'000), one(0))) == "no error");
  CHECK(with(tensor(one(0), one(1), 99)) == "no error");
  CHECK_THAT(with(tensor(one(5), one(1))),
             Catch::Contains("a tensor reaches element 4 of a storage of 4"));
  CHECK_THAT(with(tensor(one(2), one(4))), Catch::Contains("reaches element 4"));
  CHECK_THAT(with(tensor(one(1), one(1), 4)), Catch::Contains("reaches element 4"));
  CHECK_THAT(with(tensor(one(1), one(1), -1)), Catch::Contains("impossible shape"));
  CHECK_THAT(with(tensor(one(-1), one(1))), Catch::Contains("impossible shape [-1]"));
  CHECK_THAT(with(tensor(one(2), one(-1), 1)), Catch::Contains("impossible strides [-1]"));
  CHECK_THAT(with(tensor(one(2), ")")), Catch::Contains("impossible shape"));
  const std::string huge = "\x8a\x08" + std::string(7, '\xff') + "\x7f\x85";
  CHECK_THAT(with(tensor(huge, one(1))), Catch::Contains("reaches element 9223372036854775806"));
  CHECK_THAT(with(tensor(huge, one(2))), Catch::Contains("impossible strides"));
}

TEST_CASE("io.torch_bin.rejects_storages_that_are_absent_or_of_another_size") {
  const auto with = [](const std::string& value) { return complaint(dict(text("a") + value)); };
  CHECK_THAT(with(tensor(one(1), one(1), 0, 4, "7")),
             Catch::Contains("lacks the data of tensor \"a\", entry data/\"7\""));
  CHECK_THAT(with(tensor(one(5), one(1), 0, 5)),
             Catch::Contains("the data of tensor \"a\" has 16 bytes, but should hold 5 elements"));
  CHECK_THAT(with(tensor(one(1), one(1), 0, -1)), Catch::Contains("a storage of the wrong kind"));
}

TEST_CASE("io.torch_bin.rejects_damaged_pickles") {
  CHECK_THAT(complaint(""), Catch::Contains("it ends too early"));
  CHECK_THAT(complaint("\x80\x02}"), Catch::Contains("it ends too early"));
  CHECK_THAT(complaint("\x80\x02."), Catch::Contains("an empty stack"));
  CHECK_THAT(complaint("\x80\x02(."), Catch::Contains("an empty stack"));
  CHECK_THAT(complaint("\x80\x02t."), Catch::Contains("no mark"));
  CHECK_THAT(complaint("\x80\x02}(\x85s."), Catch::Contains("an empty stack"));
  CHECK_THAT(complaint("\x80\x02]."), Catch::Contains("holds no dict of tensors"));
  CHECK_THAT(complaint("\x80\x02hz."), Catch::Contains("an unset memo"));
  CHECK_THAT(complaint("\x80\x02}r" + number(0xffffffff) + "."),
             Catch::Contains("beyond the limit"));
  CHECK_THAT(complaint("\x80\x02X" + number(0xfffffff0) + "x."),
             Catch::Contains("it ends too early"));
  CHECK_THAT(complaint("\x80\x02" + std::string(101, '(') + "."), Catch::Contains("nests deeper"));
  CHECK_THAT(complaint("\x80\x02" + std::string(1'000'001, 'N')), Catch::Contains("opcodes"));
  CHECK_THAT(complaint("\x80\x02" + std::string((16 << 20) + 1, 'N')),
             Catch::Contains("bytes, more"));
  CHECK_THAT(complaint("\x80\x02}(Nu."), Catch::Contains("a key without a value"));
  CHECK_THAT(complaint("\x80\x02]NNs."), Catch::Contains("items for something"));
  CHECK_THAT(complaint("\x80\x02NNb."), Catch::Contains("a state for something"));
  CHECK_THAT(complaint("\x80\x02NNR."), Catch::Contains("a call of something"));
  CHECK_THAT(complaint("\x80\x02NQ."), Catch::Contains("an argument of the wrong kind"));
  CHECK_THAT(complaint("\x80\x02" + global("torch", "FloatStorage") + ")R."),
             Catch::Contains("a call of a class"));
  CHECK_THAT(complaint("\x80\x02\x8a\x09" + std::string(9, '\1') + "."),
             Catch::Contains("more than 64 bits"));
  const std::string value = tensor(one(1), one(1));
  CHECK_THAT(complaint(dict(text("a") + value + text("a") + value)),
             Catch::Contains("the name \"a\" twice"));
  CHECK_THAT(complaint(dict("N" + value)), Catch::Contains("a tensor whose name is no text"));
  CHECK(complaint("\x80\x02]q\1h\1a}.") == "no error");  // a list that holds itself
}

TEST_CASE("io.torch_bin.rejects_archives_of_another_form") {
  const scratch::Folder folder;
  const auto path = folder.path / "x.bin";
  const auto complaint_about = [&](const Entries& entries) {
    make_zip(path, entries);
    return error_of([&] { TorchBin file(path); });
  };
  CHECK_THAT(complaint_about({{"x/version", "3\n"}}), Catch::Contains("has no data.pkl"));
  CHECK_THAT(complaint_about({{"x/y/data.pkl", dict("")}}), Catch::Contains("has no data.pkl"));
  CHECK_THAT(complaint_about({{"x/data.pkl", dict("")}, {"y/data.pkl", dict("")}}),
             Catch::Contains("has more than one data.pkl"));
  CHECK_THAT(complaint_about({{"x/data.pkl", dict("")}, {"x/byteorder", "big"}}),
             Catch::Contains("has byte order \"big\""));
  scratch::put(path, "hello");
  CHECK_THAT(error_of([&] { TorchBin file(path); }),
             Catch::Contains("is not a file that torch.save"));
  scratch::put(path, "version https://git-lfs.github.com/spec/v1\n");
  CHECK_THAT(error_of([&] { TorchBin file(path); }), Catch::Contains("git lfs pull"));
}

TEST_CASE("io.torch_bin.reads_only_floats_and_only_into_the_right_size") {
  const TorchBin file(scratch::golden("torch.bin"));
  float values[6];
  CHECK_THAT(error_of([&] { file.read("absent", values, 6); }), Catch::Contains("no tensor"));
  CHECK_THAT(error_of([&] { file.read("plain", values, 5); }), Catch::Contains("needs 5 elements"));
  CHECK_THAT(error_of([&] { file.read("flags", values, 2); }), Catch::Contains("stored as BOOL"));
}

TEST_CASE("io.torch_bin.streams_tensors_longer_than_its_buffer") {
  const scratch::Folder folder;
  const std::int32_t rows = 700, columns = 1000;  // 2.8 MB: three pieces
  std::vector<float> values(std::size_t(rows) * columns);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = float(i);
  const std::string data(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  const auto pair = [](std::int32_t a, std::int32_t b) { return integer(a) + integer(b) + "\x86"; };
  const std::string pickle =
      dict(text("a") + tensor(pair(rows, columns), pair(columns, 1), 0, rows * columns) +
           text("t") + tensor(pair(columns, rows), pair(1, columns), 0, rows * columns) +
           text("tail") + tensor(one(10), one(1), rows * columns - 10, rows * columns));
  make_zip(folder.path / "x.bin", {{"x/data.pkl", pickle}, {"x/data/0", data}});
  const TorchBin file(folder.path / "x.bin");
  CHECK(values_of(file, "a") == values);
  CHECK(values_of(file, "tail") == std::vector<float>(values.end() - 10, values.end()));
  const std::vector<float> turned = values_of(file, "t");
  int wrong = 0;
  for (std::int32_t c = 0; c < columns; ++c)
    for (std::int32_t r = 0; r < rows; ++r)
      wrong += turned[std::size_t(c * rows + r)] != values[std::size_t(r * columns + c)];
  CHECK(wrong == 0);
}

TEST_CASE("io.torch_bin.notices_a_changed_bit_by_its_checksum") {
  const scratch::Folder folder;
  std::string bytes = scratch::bytes_of(scratch::golden("torch.bin"));
  const std::string one_and_a_quarter("\0\0\x80\x3f\0\0\xa0\x3f", 8);
  bytes[bytes.find(one_and_a_quarter)] = 1;
  scratch::put(folder.path / "x.bin", bytes);
  const TorchBin file(folder.path / "x.bin");
  CHECK_THAT(error_of([&] { values_of(file, "plain"); }), Catch::Contains("CRC"));
}

TEST_CASE("io.torch_bin.damaged_files_load_or_are_errors_but_never_crash") {
  const scratch::Folder folder;
  const auto path = folder.path / "damaged.bin";
  const std::string whole = scratch::bytes_of(scratch::golden("torch.bin"));
  std::mt19937 random(2);
  int rejected = 0;
  for (int i = 0; i < 2000; ++i) {
    scratch::put(path, scratch::damaged(whole, random));
    rejected += error_of([&] {
                  const TorchBin file(path);
                  for (const std::string& name : file.names())
                    if (ctrain::widens_to_float(file.find(name)->type) &&
                        ctrain::element_count(file.find(name)->shape) < 10'000)
                      values_of(file, name);
                }) != "no error";
  }
  CHECK(rejected > 500);
}

TEST_CASE("io.torch_bin.damaged_pickles_load_or_are_errors_but_never_crash") {
  // Without the archive around it, whose checksum would catch most damage first.
  const TorchBin golden(scratch::golden("torch.bin"));
  const ctrain::StoredZip zip(scratch::golden("torch.bin"));
  std::string whole;
  const ctrain::StoredZip::Entry& entry = *zip.find("torch/data.pkl");
  zip.stream(entry, 0, entry.size, 1 << 20, [&](const std::byte* data, std::size_t size) {
    whole.append(reinterpret_cast<const char*>(data), size);
  });
  std::mt19937 random(3);
  int rejected = 0;
  for (int i = 0; i < 2000; ++i) {
    ctrain::StateDictPickle pickle("pickle", scratch::damaged(whole, random));
    rejected += error_of([&] { pickle.read(); }) != "no error";
  }
  CHECK(rejected > 1000);
}
